"""Other systems on the broker: each adapter stands outside the core, and imports the other package only when used."""

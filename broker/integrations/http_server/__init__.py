"""What the gateways share: listening, authentication, and limits on what clients send and how long they wait."""

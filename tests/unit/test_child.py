"""A test whose process says another word, or none, fails at once and shows what the process wrote."""

from __future__ import annotations

import signal

import pytest

from tests.child import Child, Ended, finished, read_by_head

_TALKS = (
    "import sys; print('one', flush=True); sys.stderr.write('a warning\\n'); print('two', flush=True); sys.stdin.read()"
)


def test_what_it_says_is_read_line_by_line_and_the_rest_at_its_end() -> None:
    with Child("-c", _TALKS) as child:
        child.expect("one")
        assert child.end() == Ended(0, "two\n", "a warning\n")


def test_another_word_fails_with_all_that_was_said() -> None:
    with Child("-c", _TALKS) as child, pytest.raises(pytest.fail.Exception, match=r"(?s)'one' instead of 'three'.*one"):
        child.expect("three")
    assert child.process.returncode == -signal.SIGKILL


def test_an_early_end_fails_with_its_exit_code_and_its_complaint() -> None:
    with Child("-c", "import sys; sys.exit('no model')") as child:
        with pytest.raises(pytest.fail.Exception, match=r"(?s)it ended before .*exit code: 1.*no model"):
            child.read_line()


def test_silence_fails_at_the_deadline() -> None:
    with Child("-c", "import sys; sys.stdin.read()") as child:
        with pytest.raises(pytest.fail.Exception, match=r"not within 0\.2 s: a miracle"):
            child.wait_until(lambda: False, "a miracle", within_s=0.2)


def test_a_process_that_does_not_end_is_killed_and_told() -> None:
    with Child("-c", "import signal; signal.pause()") as child:
        with pytest.raises(pytest.fail.Exception, match=r"it has not ended within 0\.2 s"):
            child.end(within_s=0.2)
    assert child.process.returncode == -signal.SIGKILL


def test_a_process_that_computes_has_as_many_seconds_of_the_processor() -> None:
    """Beside seconds in which it only waits: a busy machine gives it little of the processor."""
    code = "import time\nfor _ in range(4):\n  until = time.process_time() + 0.1\n  time.sleep(0.4)\n"
    code += "  while time.process_time() < until: pass\nprint('done')"
    with Child("-c", code) as child:
        assert child.wait_until(lambda: child.out, "it is done", within_s=1.0)
    assert finished("-c", code, within_s=1.0).out == "done\n"


def test_a_process_that_computes_for_ever_is_killed_and_told() -> None:
    with Child("-c", "while True: pass") as child:
        with pytest.raises(pytest.fail.Exception, match=r"it has not ended within 0\.2 s"):
            child.end(within_s=0.2)


def test_the_end_of_the_block_ends_a_process_even_a_stopped_one() -> None:
    with Child("-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)") as child:
        pass
    assert child.process.returncode == -signal.SIGKILL


def test_what_a_process_started_may_not_outlive_it_unnoticed() -> None:
    code = "import os, time\nif not os.fork(): time.sleep(2)"
    with Child("-c", code) as child, pytest.raises(pytest.fail.Exception, match="still holds its output open"):
        child.end(within_s=0.5)


def test_it_is_told_lines_and_has_the_variables_that_it_is_given() -> None:
    with Child("-c", "import os; print(input() + os.environ['ENDING'])", env={"ENDING": "!"}) as child:
        child.tell("hello")
        child.expect("hello!")


def test_json_is_read_from_the_lines() -> None:
    assert finished("-c", "print('[1]'); print('{}')").json_lines == [[1], {}]
    assert finished("-c", "print(7)").json == 7


def test_a_reader_that_leaves_breaks_the_pipe() -> None:
    ended = read_by_head("-c", "while True: print('x' * 1000)")
    assert (ended.code, ended.out) == (1, "x" * 1000 + "\n")
    assert "BrokenPipeError" in ended.err

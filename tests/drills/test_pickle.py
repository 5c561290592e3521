"""Nothing is unpickled: a pickle is a program that whoever wrote it chose."""

ON_PURPOSE = {"unpickled pathlib PosixPath"}  # child.py does, so that the hook is seen to see


def test_a_run_unpickles_nothing(start, tmp_path):
    run = start(tmp_path / "run", "pickle")
    assert run.end() == 0, run.said.read_text()
    assert {line for line in run.lines() if line.startswith("unpickled")} == ON_PURPOSE

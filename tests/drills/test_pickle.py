"""No file is unpickled: a pickle is a program that whoever wrote the file chose."""

# tensorboardX sends its events to its own thread through a multiprocessing queue, which pickles them on the way.
IN_MEMORY = {"unpickled tensorboardX.proto.event_pb2 Event", "unpickled builtins object"}


def test_a_run_unpickles_nothing_that_it_read(start, tmp_path):
    run = start(tmp_path / "run", "pickle")
    assert run.end() == 0, run.said.read_text()
    assert {line for line in run.lines() if line.startswith("unpickled")} == IN_MEMORY

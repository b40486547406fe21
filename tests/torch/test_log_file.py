import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from refine import RefineError
from refine.torch.log_file import LogFile

HEADER = {"optimizer": "SGD"}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_rows_follow_the_header(tmp_path, suffix):
    path = tmp_path / "deep" / f"log.{suffix}"
    log = LogFile(path, append=False)
    log.append([{"step": 1, "grad_norm_l2": 0.1, "loss": float("nan")}], HEADER)
    log.append([{"step": 2, "grad_norm_l2": 1 / 3, "loss": 2.5}], HEADER)
    log.close()
    lines = path.read_text().splitlines()
    assert json.loads(lines[0].removeprefix("# ")) == {"format": "refine-gradient-norms", "format_version": 1, **HEADER}
    if suffix == "csv":
        assert lines[1:] == ["step,grad_norm_l2,loss", "1,0.1,", "2,0.333333333,2.5"]
    else:
        assert lines[1:] == [
            '{"step": 1, "grad_norm_l2": 0.1}',
            '{"step": 2, "grad_norm_l2": 0.333333333, "loss": 2.5}',
        ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_appending_goes_on_behind_the_last_whole_line(tmp_path, suffix):
    path = tmp_path / f"log.{suffix}"
    log = LogFile(path, append=False)
    log.append([{"step": 1, "a,b": 1.0}, {"step": 2, "a,b": 2.0}], HEADER)
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 3, "a' * 20_000)
    log = LogFile(path, append=True)
    assert path.read_bytes() == whole
    log.append([{"step": 3, "a,b": 4.0}], HEADER)
    log.close()
    last = path.read_text().splitlines()[-1]
    assert last == ("3,4" if suffix == "csv" else '{"step": 3, "a,b": 4}')


def test_what_is_refused(tmp_path):
    with pytest.raises(RefineError, match=r"a log is a \.jsonl or \.csv file, not 'run\.txt': change the suffix"):
        LogFile(tmp_path / "run.txt", append=False)
    path = tmp_path / "run.jsonl"
    log = LogFile(path, append=False)
    with pytest.raises(RefineError, match="is being written by another recorder; name another file"):
        LogFile(path, append=True)
    log.append([{"step": 1}], HEADER)
    log.close()
    with pytest.raises(RefineError, match="holds the log of a run; say step=N"):
        LogFile(path, append=False)
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(RefineError, match="has format version 2 and this refine writes 1"):
        LogFile(path, append=True)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        LogFile(tmp_path / "folder.csv", append=False)


@pytest.mark.parametrize("text", ["precious notes", "step,grad_norm\n1,2\n", '{"format": "other"}\n', "{\n"])
@pytest.mark.parametrize("append", [False, True])
def test_files_of_others_are_left_alone(tmp_path, text, append):
    path = tmp_path / "run.jsonl"
    path.write_text(text)
    with pytest.raises(RefineError, match="exists and is no log of a GradNormRecorder; name another file"):
        LogFile(path, append=append)
    assert path.read_text() == text


def test_a_file_that_is_empty_or_broken_off_in_its_header_is_begun_again(tmp_path):
    path = tmp_path / "run.jsonl"
    for text in ("", '{"format": "refine-gradient-norms", "form'):
        path.write_text(text)
        log = LogFile(path, append=False)
        log.append([{"step": 1}], HEADER)
        log.close()
        assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("keep", [-40, 1, 6])
def test_a_csv_that_is_broken_off_in_its_names_is_begun_again(tmp_path, keep):
    path = tmp_path / "run.csv"
    log = LogFile(path, append=False)
    log.append([{"step": 1, "grad_norm_l2": 1.0}], HEADER)
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\n") + keep])
    log = LogFile(path, append=True)
    log.append([{"step": 1, "grad_norm_l2": 1.0}], HEADER)
    log.close()
    assert path.read_bytes() == whole


def test_a_forked_child_does_not_hold_the_file(tmp_path):
    """As the workers of a DataLoader outlive a killed process for some seconds."""
    path = tmp_path / "run.jsonl"
    script = textwrap.dedent("""
        import os, sys, time
        from refine.torch.log_file import LogFile
        log = LogFile(sys.argv[1], append=False)
        child = os.fork()
        if child == 0:
            print(os.getpid(), flush=True)  # by now it has let go
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        with pytest.raises(RefineError, match="is being written"):
            LogFile(path, append=True)
        process.kill()
        process.wait()
        LogFile(path, append=True).close()
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()


def test_a_forked_child_leaves_a_file_without_rows_to_its_parent(tmp_path):
    """Workers of a DataLoader are forked before the first row is written."""
    path = tmp_path / "run.jsonl"
    script = textwrap.dedent("""
        import os, sys
        from refine.torch.log_file import LogFile
        log = LogFile(sys.argv[1], append=False)
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        log.append([{"step": 1}], {})
        log.close()
    """)
    subprocess.run([sys.executable, "-c", script, path], check=True)
    assert path.read_text().splitlines()[-1] == '{"step": 1}'


def test_nothing_stays_of_rows_that_do_not_fit_the_disk(tmp_path):
    script = textwrap.dedent("""
        import resource, signal, sys
        from refine.torch.log_file import LogFile
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        log = LogFile(sys.argv[1], append=False)
        log.append([{"step": 1}], {})
        try:
            log.append([{"step": step} for step in range(2, 1000)], {})
        except OSError as error:
            print(error.strerror)
        log.append([{"step": 2}], {})
    """)
    path = tmp_path / "run.jsonl"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert path.read_text().splitlines()[1:] == ['{"step": 1}', '{"step": 2}']

"""trainer_state.json: samples of two versions of transformers, and the Trainer that is installed."""

import json
import math
import warnings

import pytest

from refine import RefineError, read_norms
from refine.readers.huggingface import lr_alignment


def state(rows, **more) -> dict:
    steps = [row["step"] for row in rows]
    return {"global_step": max(steps, default=0), "log_history": rows, "max_steps": max(steps, default=0), **more}


def train_rows(steps, rate=lambda t: 1e-3, norm=lambda t: 1.0 + 1.0 / t) -> list[dict]:
    return [
        {"epoch": t / 100, "grad_norm": norm(t), "learning_rate": rate(t), "loss": round(2.0 + 1.0 / t, 4), "step": t}
        for t in steps
    ]


@pytest.fixture
def write(tmp_path):
    def write(value, name="trainer_state.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value, indent=2, sort_keys=True))
        return path

    return write


def test_samples(shared):
    expected = json.loads((shared / "formats/expected.json").read_text())
    alignments = {}
    for name, want in expected.items():
        if name.startswith("hf_trainer/") and "steps" in want:
            norms = read_norms(shared / "formats" / name)
            assert norms.steps.tolist() == want["steps"]
            assert norms.values.tolist() == want["grad_norm"]
            assert norms.learning_rate.tolist() == want["learning_rate"]
            assert (norms.kind, norms.source.kind_known, norms.source.clipping) == ("l2", True, "pre")
            assert norms.source.format == "Hugging Face trainer_state.json"
            assert norms.source.settings["batch_size"] == 8
            alignments[name.split("/")[1].split("_trainer")[0]] = norms.source.lr_alignment
    assert alignments == {
        "v4.50.3_lr_is_next_step": "next_step",
        "v5.23.0_lr_is_this_step": "this_step",
        "v5.23.0_checkpoint-12": "this_step",
        "v5.23.0_resumed": "this_step",
        "v5.23.0": "this_step",
    }


def test_sample_of_a_run_without_clipping_is_refused_with_the_remedy(shared):
    with pytest.raises(RefineError, match="the key grad_norm is absent: .* before 5.3 only with clipping on") as caught:
        read_norms(shared / "formats/hf_trainer/v4.50.3_max_grad_norm_0_no_key_trainer_state.json")
    assert "\n" not in str(caught.value)


def test_eval_rows_and_the_last_row_are_no_train_rows(write):
    rows = train_rows(range(1, 6))
    rows.insert(2, {"epoch": 0.02, "eval_loss": 9.0, "eval_grad_norm": 7.0, "eval_runtime": 1.0, "step": 2})
    rows.append({"epoch": 0.05, "step": 5, "total_flos": 1.0, "train_loss": 99.0, "train_runtime": 1.0})
    norms = read_norms(write(state(rows)))
    assert norms.steps.tolist() == [1, 2, 3, 4, 5]
    assert norms.values.tolist() == [2.0, 1.5, 1.0 + 1 / 3, 1.25, 1.2]
    assert norms.loss.tolist() == [3.0, 2.5, 2.3333, 2.25, 2.2]
    assert dict(norms.dropped) == {"without a norm": 2}
    assert norms.total_steps == 5


def test_a_run_that_stopped_keeps_its_planned_length(write):
    norms = read_norms(write(state(train_rows(range(10, 60, 10)), max_steps=1000)))
    assert norms.total_steps == 1000
    assert any("planned for" in note for note in norms.source.notes)
    assert read_norms(write(state(train_rows(range(10, 60, 10)), max_steps=-1))).total_steps == 50


def test_numbers_that_are_none_are_counted(write):
    rows = train_rows(range(1, 8), norm=lambda t: {3: math.nan, 4: math.inf, 5: 0.0}.get(t, 1.0 / t))
    path = write(state(rows))
    assert "NaN" in path.read_text()
    norms = read_norms(path)
    assert norms.steps.tolist() == [1, 2, 6, 7]
    assert dict(norms.dropped) == {"non-finite": 2, "zero": 1}


WARMUP, TOTAL = 10, 40


def linear(n):
    """The rate that transformers gives after n calls of the scheduler."""
    return n / WARMUP if n < WARMUP else (TOTAL - n) / (TOTAL - WARMUP)


def cosine(n):
    return n / WARMUP if n < WARMUP else 0.5 * (1 + math.cos(math.pi * (n - WARMUP) / (TOTAL - WARMUP)))


@pytest.mark.parametrize("schedule", [linear, cosine])
@pytest.mark.parametrize(("every", "first"), [(1, 1), (5, 5), (5, 1)])
@pytest.mark.parametrize(("late", "found"), [(1, "this_step"), (0, "next_step")])
def test_the_step_of_the_rates_is_found_where_they_meet_zero(write, schedule, every, first, late, found):
    steps = sorted({first, *range(every, TOTAL + 1, every)})
    path = write(state(train_rows(steps, rate=lambda t: 5e-4 * schedule(t - late))))
    assert read_norms(path).source.lr_alignment == found


@pytest.mark.parametrize(("late", "found"), [(1, "this_step"), (0, "next_step")])
def test_a_decay_without_warmup_tells_at_its_end(write, late, found):
    path = write(state(train_rows(range(8, 41, 8), rate=lambda t: 5e-4 * (40 - t + late) / 40)))
    assert read_norms(path).source.lr_alignment == found


def test_the_step_of_the_rates_stays_unknown_where_they_do_not_tell(write):
    constant = train_rows(range(1, 20))
    assert read_norms(write(state(constant))).source.lr_alignment == "unknown"
    cut = train_rows(range(12, 30, 2), rate=linear)
    assert read_norms(write(state(cut, max_steps=TOTAL, global_step=29))).source.lr_alignment == "next_step"
    sparse = train_rows(range(20, 41, 20), rate=lambda t: 1e-3 * cosine(t - 1))
    assert read_norms(write(state(sparse))).source.lr_alignment == "unknown"
    torn = train_rows(range(1, 41), rate=lambda t: linear(t - 1) if t < 20 else linear(t))
    assert read_norms(write(state(torn))).source.lr_alignment == "unknown"


def test_rates_held_back_by_overflow_do_not_pass_for_those_of_their_step(write):
    """Update 1 overflowed and the scheduler waited: the rate of the next step looks like the one that was used."""
    rows = train_rows(range(1, 41), rate=lambda t: linear(t - 1), norm=lambda t: math.inf if t == 1 else 1.0)
    assert read_norms(write(state(rows))).source.lr_alignment == "unknown"
    rows[0]["grad_norm"] = 1.0
    assert read_norms(write(state(rows))).source.lr_alignment == "this_step"


def test_lr_alignment_of_little():
    assert lr_alignment([], 10) == lr_alignment([(1, 0.0)], 1) == lr_alignment([(1, 0.1), (1, 0.2)], 1) == "unknown"


def test_losses_in_full_are_of_transformers_5(write):
    rows = train_rows(range(5, 30, 5))
    rows[1]["loss"] = 2.123456789
    assert read_norms(write(state(rows))).source.lr_alignment == "this_step"
    for row in rows:
        row["memory(GiB)"] = 1.0  # ms-swift has its own logging
    assert read_norms(write(state(rows))).source.lr_alignment == "unknown"
    rows = train_rows(range(5, 30, 5))
    rows[1]["loss"] = math.nan
    assert read_norms(write(state(rows))).source.lr_alignment == "unknown"


def test_of_several_checkpoints_the_furthest_is_read(write, tmp_path):
    for last in (10, 9, 30, 20):
        write(state(train_rows(range(1, last + 1)), max_steps=30), f"out/checkpoint-{last}/trainer_state.json")
    for place in ("out", "out/checkpoint-30", "out/checkpoint-30/trainer_state.json"):
        assert read_norms(tmp_path / place).steps[-1] == 30
    assert read_norms(tmp_path / "out/checkpoint-9").steps[-1] == 9
    notes = read_norms(tmp_path / "out").source.notes
    assert notes == ("checkpoint-30/trainer_state.json is read: it goes furthest",)
    write(state(train_rows(range(1, 31), norm=lambda t: 5.0), max_steps=30), "out/trainer_state.json")
    assert set(read_norms(tmp_path / "out").values) == {5.0}


def test_a_damaged_state_gives_way_to_that_of_another_checkpoint(write, tmp_path):
    write(state(train_rows(range(1, 11))), "out/checkpoint-10/trainer_state.json")
    whole = json.dumps(state(train_rows(range(1, 21))), indent=2, sort_keys=True)
    cut = write(whole[: len(whole) // 2], "out/checkpoint-20/trainer_state.json")
    norms = read_norms(tmp_path / "out")
    assert norms.steps[-1] == 10
    assert norms.source.notes[0].startswith("checkpoint-20/trainer_state.json is passed over: the JSON is damaged")
    with pytest.raises(RefineError, match="the JSON is damaged"):
        read_norms(cut)
    (tmp_path / "out/checkpoint-10/trainer_state.json").unlink()
    with pytest.raises(RefineError, match="passed over: the JSON is damaged"):
        read_norms(tmp_path / "out")


@pytest.mark.parametrize("history", [None, 3, {"a": 1}, [], [None, 3], [{"step": 1}]])
def test_a_history_that_is_none_is_refused(write, history):
    with pytest.raises(RefineError, match="log_history is no list|the key grad_norm is absent"):
        read_norms(write({"global_step": 1, "log_history": history}))


def test_several_runs_are_told_by_their_folder(write, tmp_path):
    for name, last in (("a", 10), ("b", 20)):
        write(state(train_rows(range(1, last + 1))), f"out/{name}/checkpoint-{last}/trainer_state.json")
    with pytest.raises(RefineError, match='holds 2 runs: "a", "b"; choose one with --run'):
        read_norms(tmp_path / "out")
    assert read_norms(tmp_path / "out", run="b").steps[-1] == 20


@pytest.mark.parametrize("place", ["out/checkpoint-5", "out"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("args.json", '{"optim": "sgd", "max_grad_norm": 0.5, "learning_rate": 0.001, "lr_scheduler_type": "cosine"}'),
        ("training_args.yaml", "optim: sgd\nmax_grad_norm: 0.5\nlearning_rate: 0.001\nlr_scheduler_type: cosine\n"),
    ],
)
def test_arguments_beside_the_state_are_read(write, place, name, text):
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    path = write(state(train_rows(range(1, 6)), train_batch_size=4), "out/checkpoint-5/trainer_state.json")
    write(text, f"{place}/{name}")
    norms = read_norms(path)
    expected = {"batch_size": 4, "optimizer": "sgd", "clip": 0.5, "learning_rate": 0.001, "schedule": "cosine"}
    assert norms.source.settings == expected
    assert norms.source.optimizer == "sgd"


def test_arguments_of_the_folder_above_an_output_folder_are_not_its_own(write):
    path = write(state(train_rows(range(1, 6))), "all/out/trainer_state.json")
    write('{"optim": "sgd"}', "all/args.json")
    assert dict(read_norms(path).source.settings) == {}


def test_a_pickle_beside_the_state_is_not_opened(write, tmp_path):
    path = write(state(train_rows(range(1, 6))))
    (tmp_path / "training_args.bin").symlink_to("/dev/zero")  # reading it would never end
    assert read_norms(path).steps.size == 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the installed Trainer, and what its callbacks saw."""
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

        def forward(self, x, labels):
            return {"loss": ((self.net(x)[:, 0] - labels) ** 2).mean()}

    class Watch(transformers.TrainerCallback):
        """Norms before clipping and rates as the optimizer sees them."""

        def __init__(self):
            self.norms, self.rates = [], []

        def on_optimizer_step(self, args, state, control, **kwargs):
            self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])

        def on_log(self, args, state, control, logs, **kwargs):
            if "grad_norm" in logs:
                self.norms.append((state.global_step, logs["grad_norm"]))

    out = tmp_path_factory.mktemp("trainer")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        transformers.set_seed(0)
        data = [{"x": torch.randn(4), "labels": torch.randn(())} for _ in range(160)]
        arguments = transformers.TrainingArguments(
            str(out),
            per_device_train_batch_size=8,
            max_steps=24,
            learning_rate=1e-2,
            warmup_steps=4,
            max_grad_norm=0.1,
            logging_steps=2,
            eval_strategy="steps",
            eval_steps=8,
            save_steps=12,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        watch = Watch()
        trainer = transformers.Trainer(Model(), arguments, train_dataset=data, eval_dataset=data[:8], callbacks=[watch])
        trainer.train()
    return out, trainer.state, watch


def test_a_run_of_the_trainer(trained):
    out, state, watch = trained
    norms = read_norms(out)
    assert list(zip(norms.steps.tolist(), norms.values.tolist(), strict=True)) == watch.norms
    logged = [row for row in state.log_history if "grad_norm" in row]
    assert norms.learning_rate.tolist() == [row["learning_rate"] for row in logged]
    assert norms.loss.tolist() == [row["loss"] for row in logged]
    assert norms.learning_rate.tolist() == [watch.rates[step - 1] for step in norms.steps]
    assert norms.source.lr_alignment == "this_step"
    assert (norms.kind, norms.source.clipping, norms.total_steps) == ("l2", "pre", 24)
    assert norms.values.max() > 0.1


def test_a_checkpoint_of_the_trainer(trained):
    out, _, watch = trained
    norms = read_norms(out / "checkpoint-12")
    assert list(zip(norms.steps.tolist(), norms.values.tolist(), strict=True)) == watch.norms[:6]
    assert norms.total_steps == 24

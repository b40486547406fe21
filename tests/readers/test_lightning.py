"""metrics.csv of Lightning: samples, and the Trainer that is installed."""

import warnings

import pytest

from refine import RefineError, read_norms

HEAD = "epoch,grad_2.0_norm_total,lr-AdamW,step,train_loss\r\n"


def metrics(steps, norm=lambda t: 1.0 + 1.0 / (t + 1)) -> str:
    rows = [f",,0.001,{t},\r\n0,{norm(t)},,{t},{2.5 + t}\r\n" for t in steps]
    return HEAD + "".join(rows)


@pytest.fixture
def write(tmp_path):
    def write(text, place="version_0"):
        folder = tmp_path / "lightning_logs" / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.csv").write_bytes(text.encode())
        return folder / "metrics.csv"

    return write


def test_sample_with_an_l2_norm(shared):
    norms = read_norms(shared / "formats/lightning/metrics_l2.csv")
    assert norms.steps.tolist() == list(range(5, 61, 5))
    assert norms.total_steps == 60
    assert norms.values[:2].tolist() == [3.1635591983795166, 4.785552978515625]
    assert norms.learning_rate[:2].tolist() == [0.009890738003669027, 0.009455032620941837]
    assert norms.loss[:2].tolist() == [4.722223281860352, 6.445578098297119]
    assert (norms.kind, norms.source.kind_known, norms.source.optimizer) == ("l2", True, "adam")
    assert (norms.source.clipping, norms.source.lr_alignment) == ("pre", "this_step")
    assert norms.source.format == "Lightning metrics.csv"


def test_sample_with_an_l1_norm_by_step_and_by_epoch(shared):
    norms = read_norms(shared / "formats/lightning/metrics_l1_both.csv")
    assert norms.steps.tolist() == list(range(5, 61, 5))
    assert norms.values[:2].tolist() == [22.396717071533203, 46.01292419433594]
    assert norms.source.columns == {
        "norm": "grad_1.0_norm_total_step",
        "step": "step",
        "lr": "lr-AdamW",
        "loss": "train_loss_step",
    }
    assert (norms.kind, norms.source.kind_known) == ("l1", True)


def test_steps_count_from_0(write):
    norms = read_norms(write(metrics(range(4))))
    assert norms.steps.tolist() == [1, 2, 3, 4]
    assert norms.total_steps == 4
    assert norms.from_zero is False


def test_rows_of_the_rate_may_repeat(write):
    text = HEAD + "".join(f",,0.{t + 1},{t},\r\n" * 4 + f"0,{t + 1},,{t},1.0\r\n" for t in range(3))
    norms = read_norms(write(text))
    assert norms.learning_rate.tolist() == [0.1, 0.2, 0.3]
    assert dict(norms.dropped) == {"without a norm": 12}


def test_a_norm_rounded_to_nothing_is_counted(write):
    norms = read_norms(write(metrics(range(4), norm=lambda t: 0.0 if t == 2 else 0.0001)))
    assert norms.steps.tolist() == [1, 2, 4]
    assert norms.dropped["zero"] == 1


def test_numbers_that_are_none_and_a_cut_last_line(write):
    text = metrics(range(5), norm=lambda t: {1: "nan", 2: "inf"}.get(t, 0.125 * (t + 1)))
    norms = read_norms(write(text[: text.rindex("4,6.5")]))
    assert norms.steps.tolist() == [1, 4]
    assert norms.dropped["non-finite"] == 2
    assert norms.dropped["truncated last line"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "step,grad_norm,lr-AdamW\n1,0.5,0.1\n2,0.25,0.1\n",  # not sorted
        "epoch,grad_norm,loss,step\n0,0.5,0.1,1\n0,0.25,0.1,2\n",  # sorted, as anybody may
        "grad_norm,loss,step\r\n0.5,0.1,1\r\n0.25,0.1,2\r\n",
        "grad_norm\tstep\n0.5\t1\n0.25\t2\n",
    ],
)
def test_a_table_of_somebody_else_is_left_alone(make_log, text):
    norms = read_norms(make_log(text, name="metrics.csv"))
    assert norms.source.format in ("CSV", "TSV")
    assert norms.steps.tolist() == [1, 2]


def test_a_norm_of_ones_own_says_nothing_of_clipping(write):
    norms = read_norms(write("epoch,grad_norm,step\r\n0,0.5,0\r\n0,0.25,1\r\n"))
    assert norms.source.format == "Lightning metrics.csv"
    assert (norms.source.clipping, norms.source.lr_alignment) == ("unknown", "unknown")
    assert norms.steps.tolist() == [1, 2]


def test_without_a_norm_the_message_has_the_recipe(write):
    with pytest.raises(RefineError, match="log it with self.log_dict.*on_before_optimizer_step"):
        read_norms(write("epoch,lr-SGD,step,train_loss\r\n0,0.1,0,1\r\n0,0.1,1,1\r\n"))


def test_folders_and_versions(write, tmp_path):
    path = write(metrics(range(5)))
    write("epoch,step,val_loss\r\n0,4,1.0\r\n", "version_1")
    for place in (path, path.parent, tmp_path / "lightning_logs", tmp_path):
        assert read_norms(place).steps.tolist() == [1, 2, 3, 4, 5]
    write(metrics(range(9)), "version_2")
    with pytest.raises(RefineError, match='holds 2 runs: "version_0", "version_2"; choose one with --run'):
        read_norms(tmp_path / "lightning_logs")
    assert read_norms(tmp_path / "lightning_logs", run="version_2").steps.size == 9
    with pytest.raises(RefineError, match='no run is called "version_7"'):
        read_norms(tmp_path / "lightning_logs", run="version_7")


def test_hyper_parameters_beside_it(write):
    pytest.importorskip("yaml")
    path = write(metrics(range(5)))
    (path.parent / "hparams.yaml").write_text(
        "optimizer: sgd\nlr: 0.1\ngradient_clip_val: 0.5\nname: !!python/name:os\n"
    )
    assert dict(read_norms(path).source.settings) == {}  # a tag that safe_load refuses
    (path.parent / "hparams.yaml").write_text("optimizer: sgd\nlr: 0.1\ngradient_clip_val: 0.5\n")
    assert read_norms(path).source.settings == {"optimizer": "sgd", "learning_rate": 0.1, "clip": 0.5}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Runs of the installed Lightning, and the norms, rates and losses that the module saw."""
    lightning = pytest.importorskip("lightning.pytorch")
    torch = pytest.importorskip("torch")
    from lightning.pytorch.callbacks import LearningRateMonitor
    from lightning.pytorch.loggers import CSVLogger

    class Model(lightning.LightningModule):
        def __init__(self, norm_type, both):
            super().__init__()
            self.save_hyperparameters({"lr": 0.05, "optimizer": "AdamW"})
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
            self.norm_type, self.both, self.seen = norm_type, both, []

        def training_step(self, batch):
            loss = ((self.net(batch[0])[:, 0] - batch[1]) ** 2).mean()
            self.log("train_loss", loss)
            return loss

        def on_before_optimizer_step(self, optimizer):
            norms = lightning.utilities.grad_norm(self, norm_type=self.norm_type)
            self.log_dict(norms, on_step=True, on_epoch=self.both)
            total = norms[f"grad_{float(self.norm_type)}_norm_total"].item()
            self.seen.append((total, optimizer.param_groups[0]["lr"]))

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / 4) * (1 - t / 40))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def run(norm_type=2, both=False, **options):
        folder = tmp_path_factory.mktemp("lightning")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            data = torch.utils.data.TensorDataset(torch.randn(96, 4), torch.randn(96))
            model = Model(norm_type, both)
            trainer = lightning.Trainer(
                accelerator="cpu",
                logger=CSVLogger(folder),
                callbacks=[LearningRateMonitor("step")],
                gradient_clip_val=0.1,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                **options,
            )
            trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=4))
        return folder, model.seen

    return run


@pytest.mark.parametrize(
    ("options", "every"),
    [
        ({"max_epochs": 1, "log_every_n_steps": 1}, 1),
        ({"max_epochs": 2, "log_every_n_steps": 5, "both": True}, 5),
        ({"max_epochs": 1, "log_every_n_steps": 2, "accumulate_grad_batches": 4, "norm_type": 1}, 2),
    ],
)
def test_a_run_of_lightning(train, options, every):
    folder, seen = train(**options)
    norms = read_norms(folder)
    steps = list(range(every, len(seen) + 1, every))
    assert norms.steps.tolist() == steps
    assert norms.values.tolist() == [seen[step - 1][0] for step in steps]
    assert norms.learning_rate.tolist() == pytest.approx([seen[step - 1][1] for step in steps], rel=1e-15)
    assert (norms.kind, norms.source.clipping) == (f"l{options.get('norm_type', 2)}", "pre")
    assert (norms.source.lr_alignment, norms.source.optimizer) == ("this_step", "adam")
    assert norms.values.max() > 0.1
    assert norms.source.settings["learning_rate"] == 0.05

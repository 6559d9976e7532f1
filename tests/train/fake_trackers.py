"""Small packages with the API of the trackers' own, as files to put on `sys.path`; `calls` is what they were told."""

RUN = """
calls = []
config = {}

class Run:
    def log(self, values, step):
        calls.append(("log", step, values))
    def finish(self):
        calls.append(("finish",))

def init(**options):
    calls.append(("init", options))
    return Run()
"""

MLFLOW = """
from types import SimpleNamespace
calls = []
utils = SimpleNamespace(validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100))
parameters = {}

def search_experiments(filter_string):
    return []

def create_experiment(name, artifact_location, tags):
    calls.append(("experiment", name))
    return "7"

def start_run(run_id, experiment_id, run_name, nested, tags, description):
    calls.append(("init", {"run_id": run_id, "run_name": run_name}))
    return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "chosen-by-mlflow"))

def log_params(values):
    for name, value in values.items():
        if parameters.setdefault(name, value) != value:
            raise RuntimeError("Changing param values is not allowed")

def log_metrics(values, step):
    for name in values:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-. /"), name
    calls.append(("log", step, values))

def end_run():
    calls.append(("finish",))
"""

COMET = """
__version__ = "3.58.8"
calls = []
parameters = {}

class Experiment:
    def set_name(self, name):
        calls.append(("name", name))
    def log_parameters(self, values):
        parameters.update(values)
    def set_step(self, step):
        self.step = step
    def log_metric(self, name, value, step):
        calls.append(("log", step, {name: value}))
    def end(self):
        calls.append(("finish",))

def start(project_name, experiment_key):
    assert experiment_key.isalnum() and 32 <= len(experiment_key) <= 50
    calls.append(("init", {"project_name": project_name, "experiment_key": experiment_key}))
    return Experiment()
"""

PACKAGES = {"wandb": RUN, "trackio": RUN, "swanlab": RUN, "mlflow": MLFLOW, "comet_ml": COMET}

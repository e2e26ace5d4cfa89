"""Errors of the command line's parser in one line; unknown ones as they are."""

import pytest

from explainers.messages.parser import shorten

NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.core.module.LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'explainers.methods.rtis.RTIS':
        Parser key "{group}":
          Does not validate against any of the Union subtypes
          Subtypes: [<class 'x.Options'>, <class 'NoneType'>]
          Errors:
            - {error}
            - Expected a <class 'NoneType'>
          Given value type: <class 'dict'>
          Given value: {given}
"""


@pytest.mark.parametrize(
    ("group", "error", "given", "told"),
    [
        (
            "network",
            "Expected a <class 'int'>. Got value: wide",
            "{'backbone': 'resnet18', 'decoder_channels': 'wide'}",
            "model.RTIS.network.decoder_channels must be int, got wide",
        ),
        (
            "network",
            "Expected a <class 'int'>. Got value: x",
            "NestedArg(key='atrous_rates', val=[1, 'x'])",
            "model.RTIS.network.atrous_rates must be list[int], got [1, 'x']",
        ),
        (
            "optimizer",
            "Expected a typing.Literal['adamw', 'prodigy']. Got value: rmsprop",
            "{'name': 'rmsprop'}",
            "model.RTIS.optimizer.name must be one of ['adamw', 'sgd', 'prodigy'], got rmsprop",
        ),
        (
            "network",
            "Unexpected keys: {'backbon'}",
            "{'backbon': 1}",
            "model.RTIS.network has no option 'backbon'; did you mean 'backbone'?",
        ),
    ],
)
def test_options_of_a_group_are_told_with_their_place(group, error, given, told):
    text = NESTED.format(group=group, error=error, given=given)
    assert shorten(text, "train.py") == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "Parser key \"trainer.max_steps\": Expected a <class 'int'>. Got value: many",
            "trainer.max_steps must be int, got many",
        ),
        ('expected "subcommand" to be one of', "Try: python train.py <subcommand>"),
        (
            "Problem with given class_path 'explainers.methods.rtis.RTIS': "
            "Option 'lr' is not accepted",
            "it is optimizer.lr now",
        ),
        (
            "Problem with given class_path 'explainers.methods.rtis.RTIS': "
            "Option 'destroyr' is not accepted",
            "did you mean 'destroyer'?",
        ),
        ("does not accept option 'scor.target'", "did you mean 'score'?"),
        ("does not accept option 'trainer.max_epoch'", "did you mean 'max_epochs'?"),
        ("required: explanandum", "add a file of configs/explananda"),
        ("does not accept option 'score.pannels'", "did you mean 'panels'?"),
        ("unrecognized arguments: --score.targt label", "did you mean '--score.target'?"),
        ("unrecognized arguments: --ckptpath=x", "did you mean '--ckpt_path'?"),
        ("unrecognized arguments: a.yaml", "did you mean -c a.yaml?"),
        ("invalid choice: 'fitt' (choose from 'fit', 'validate')", "did you mean 'fit'?"),
        ("invalid choice: 'test' (choose from 'fit')", "test is a command of evaluate.py"),
        ("Parser key \"config\": File does not exist: '/a/kpt_path'", "dashes: --ckpt_path"),
        ("class_path 'a.b.C': No module named 'a'", "run from the folder that holds it"),
        (
            "class_path 'explainers.methods.captum_methods.Saliency': No module named 'captum'",
            "pip install 'learned-explainers[baselines]'",
        ),
        (
            "class_path 'explainers.methods.rize.RISE': module 'x' has no attribute 'rize'",
            "did you mean explainers.methods.rise.RISE?",
        ),
        ("Expected a dot import path string: RISSE", "did you mean explainers.methods.rise.RISE?"),
    ],
)
def test_what_to_do_is_told(text, told):
    message = shorten(text, "train.py")
    assert told in message
    assert "\n" not in message


def test_a_missing_method_is_not_taken_from_a_checkpoint_in_fit():
    required = "the following arguments are required: {0}.data, {0}.model"
    data = "no data given: add -c configs/data/<name>.yaml; "
    model = "no method given: add -c configs/methods/<name>.yaml"
    assert shorten(required.format("fit"), "learned-explainers") == data + model
    told = shorten(required.format("test"), "evaluate.py")
    assert told == f"{data}{model}, or --ckpt_path FILE"


ROW = """Parser key "score.methods":
  Does not validate against any of the Union subtypes
  Subtypes: [dict[str, collections.abc.Callable[[x.Explanandum], x.Explainer]], <class 'NoneType'>]
  Errors:
    - Type collections.abc.Callable[[x.Explanandum], x.Explainer] expects a function or a \
callable class: {fault}. Got value: Namespace(class_path='{name}', init_args=Namespace(sigm=3))
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {{'thin': {{'class_path': '{name}', 'init_args': {{}}}}, \
'wide': {{'class_path': '{name}', 'init_args': {{'sigma': 'x', 'sigm': 3}}}}}}
"""


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            "Option 'sigm' is not accepted",
            "score.methods.wide.CentredGaussian has no option 'sigm'; did you mean 'sigma'?",
        ),
        (
            "Parser key \"sigma\":\n        Expected a <class 'float'>. Got value: x",
            "score.methods.wide.CentredGaussian.sigma must be float, got x",
        ),
    ],
)
def test_the_row_is_named(fault, told):
    name = "explainers.methods.constant.CentredGaussian"
    assert shorten(ROW.format(fault=fault, name=name), "evaluate.py") == told


MISPLACED = """Parser key "data":
  Does not validate against any of the Union subtypes
  Errors:
    - Not a valid subclass of LightningDataModule
      Subclass types expect one of:
      - a class path (str)
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {}
"""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "{'class_path': 'a.B', 'limit': 3}",
            "arguments go to data.init_args.limit",
        ),
        ("{'init_args': {}}", "data names no class: give data.class_path"),
        ("[1]", "data must be a class path, or class_path and init_args, got [1]"),
    ],
)
def test_arguments_in_the_wrong_place_are_told(given, told):
    assert told in shorten(MISPLACED.format(given), "train.py")


def test_an_unknown_message_is_passed_on():
    assert shorten("a new\n  - kind of\n  error", "x") == "a new kind of error"

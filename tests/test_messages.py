"""Errors of the command line's parser in one line; unknown ones as they are."""

import pytest

from explainers.messages import one_line

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
            "Expected a typing.Literal['adamw', 'prodigy']. Got value: sgd",
            "{'name': 'sgd'}",
            "model.RTIS.optimizer.name must be one of ['adamw', 'prodigy'], got sgd",
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
    assert one_line(ValueError(text), "train.py") == told


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
        (
            "Caught ValueError in DataLoader worker process 0.\n  File\nValueError: no image",
            "no image",
        ),
    ],
)
def test_what_to_do_is_told(text, told):
    message = one_line(ValueError(text), "train.py")
    assert told in message
    assert "\n" not in message


def test_an_unknown_message_is_passed_on():
    assert one_line(ValueError("a new\n  - kind of\n  error"), "x") == "a new kind of error"

"""Any decoder that transformers can build, on the paged cache: slower than our pages, and as correct."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from engine.errors import ModelLoadError
from engine.layers.linear import Linear
from engine.models.causal_lm import CausalLM
from engine.models.general_attention import PAGED, SURVEY, PagedPass, Survey, SurveyedSizes
from engine.models.general_check import check_against_eager

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.forward_inputs import ForwardInputs
    from engine.general_config import GeneralConfig
    from engine.kv_cache import LayerCache
    from engine.precision import Precision

FOREIGN_ERRORS = (ModelLoadError, RuntimeError, ValueError, TypeError, AttributeError, LookupError)
"""What a model raises that does not suit the way in which it is called here."""


class TransformersLinear(Linear):
    """A linear layer of transformers' model, multiplied as ours are.

    It stands under the name that its weight has in the checkpoint.
    """

    def __init__(self, name: str, weight: Tensor, bias: Tensor | None, precision: Precision) -> None:
        out_features, in_features = weight.shape
        with torch.device("meta"):
            super().__init__(in_features, {name: out_features}, bias=bias is not None, precision=precision)
        self.weight = nn.Parameter(weight.detach().to(precision.weights), requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias.detach(), requires_grad=False)

    def prepare(self) -> None:
        """Bring the loaded weight into the form that the device multiplies fastest, and drop the original."""
        dtype, device = self._activations, self.weight.device
        super().prepare()
        placeholder = torch.empty(0, dtype=dtype, device=device)  # some models ask for a weight's type
        self.weight = nn.Parameter(placeholder, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., in_features]; returns [..., out_features]."""
        return super().forward(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


class GivenHidden(nn.Module):
    """Stands for the base model where only the output layer is wanted: gives back what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.output_type: Any = None
        """Class of the base model's output."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> Any:
        """Return hidden states as the base model returns its own."""
        return self.output_type(last_hidden_state=inputs_embeds)

    @property
    def decoder(self) -> GivenHidden:
        """What a class calls that reaches past its base model for the decoder in it."""
        return self


class GeneralCausalLM(CausalLM):
    """A model of transformers whose attention runs on our cache.

    Its modules have the names that they have in transformers. The output side, with whatever scales and caps
    the logits, is transformers' own: its model is kept with `GivenHidden` in place of the base model.

    Args:
        config: what the model is.
        transformer: the loaded model.
        max_model_len: longest sequence, in tokens.
        precision: the types of tensors.
    """

    is_capturable = False
    config: GeneralConfig

    def __init__(
        self, config: GeneralConfig, transformer: Any, max_model_len: int, precision: Precision
    ) -> None:
        super().__init__(config, precision.activations)
        self._max_model_len = max_model_len
        transformer.eval().requires_grad_(False)
        self._prefix: str = transformer.base_model_prefix
        if not isinstance(getattr(transformer, self._prefix, None), nn.Module):
            raise ModelLoadError(f"{config.architecture} is not supported: it has no base model of its own")
        _replace_linears(transformer, precision)
        for name, child in transformer.named_children():
            self.add_module(name, child)
        self._given = GivenHidden()
        setattr(transformer, self._prefix, self._given)
        self._output_side = (transformer,)  # in a tuple, so that its modules are not counted twice
        self._windows: list[int | None] = []
        self._sizes: SurveyedSizes | None = None

    def prepare(self) -> None:
        """Make ready to run, once the weights are there, and check that the cache suits the model.

        Raises:
            ModelLoadError: it does not; the text says why.
        """
        for module in self.modules():
            if isinstance(module, Linear):
                module.prepare()
        try:
            self._survey()
            check_against_eager(self, self._max_model_len)
        except FOREIGN_ERRORS as error:
            raise ModelLoadError(f"{self.config.architecture} is not supported: {error}") from error

    @property
    def kv_sizes(self) -> SurveyedSizes:
        """What a token leaves in the KV cache."""
        assert self._sizes is not None, "prepare() was not called"
        return self._sizes

    def forward(self, inputs: ForwardInputs, caches: Sequence[LayerCache]) -> Tensor:
        """Run a step; returns hidden states [num_tokens, hidden_size]."""
        with PagedPass(inputs, caches, self._windows).running():
            return self._run(inputs.token_ids, inputs.positions)

    def project(self, hidden: Tensor) -> Tensor:
        """Map hidden states [num_rows, hidden_size] to logits [num_rows, vocab_size] in their own type."""
        logits: Tensor = self._output_side[0](inputs_embeds=hidden.unsqueeze(0), use_cache=False).logits
        return logits[0]

    @torch.inference_mode()
    def eager_logits(self, token_ids: Tensor) -> Tensor:
        """Compute one whole sequence [num_tokens] as transformers does by itself, without the cache."""
        self._base.set_attn_implementation("eager")
        hidden = self._run(token_ids, torch.arange(len(token_ids), device=token_ids.device))
        self._base.set_attn_implementation(PAGED)
        return self.project(hidden)

    @property
    def _base(self) -> Any:
        return getattr(self, self._prefix)

    def _run(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        output = self._base(
            input_ids=token_ids.unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False
        )
        self._given.output_type = type(output)
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    @torch.inference_mode()
    def _survey(self) -> None:
        device = next(self.parameters()).device
        survey = Survey(self._max_model_len)
        token_ids = torch.zeros(min(2, self._max_model_len), dtype=torch.int64, device=device)
        self._base.set_attn_implementation(SURVEY)
        with survey.running():
            self._run(token_ids, torch.arange(len(token_ids), device=device))
        self._base.set_attn_implementation(PAGED)
        self._windows, self._sizes = survey.windows, survey.sizes


def _replace_linears(transformer: nn.Module, precision: Precision) -> None:
    """Put ours in the place of all linear layers, which keep their names and numbers."""
    head = transformer.get_output_embeddings()  # type: ignore[operator] # transformers' models have it
    for path, module in list(transformer.named_modules()):
        if type(module) is nn.Linear:
            weight = module.weight
        elif type(module) is Conv1D:
            weight = module.weight.t().contiguous()
        else:
            continue
        name = path.rpartition(".")[2]
        own = replace(precision, quantized=None) if module is head else precision
        transformer.set_submodule(path, TransformersLinear(name, weight, module.bias, own))

"""One run of a module in which facts flow instead of values.

Stand-ins take the place of the arguments. Below autograd every ATen operation passes by the walk: it computes what
depends on weights alone, and asks the rules about what depends on a stand-in.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from .facts import Facts, Node, Stop, known, unknown, variable
from .forms import pending
from .rules import RULES, call

Bound = float | int | Tensor
Box = tuple[Bound, Bound]


class Stopped(Exception):  # noqa: N818 - a way out, not an error
    """Nothing can be known from here on."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(f"{stop.node}: {stop.reason}")
        self.stop = stop


class Stand(Tensor):
    """Stands for a tensor of which only facts are known; shared: it has views, or is one."""

    facts: Facts
    shared: bool

    @staticmethod
    def __new__(cls, like: Tensor, known_facts: Facts) -> "Stand":
        made = Tensor._make_wrapper_subclass(cls, like.shape, strides=like.stride(), dtype=like.dtype)
        made.facts, made.shared = known_facts, False
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return torch._C._disabled_torch_function_impl(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of the walk")


class Walk(TorchDispatchMode):
    """Runs rules where facts flow and torch where values are known.

    path: names of the modules being run, outermost first. owners: of known tensors, by id, the modules of the
    parameters that they were computed from; kept: all of them, so that no id is used twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.path: list[str] = [""]
        self.owners: dict[int, str] = {}
        self.kept: list[Tensor] = []

    def own(self, value: Tensor, owner: str) -> None:
        self.owners[id(value)] = owner
        self.kept.append(value)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = arguments_by_name(func, args, kwargs or {})
        tensors = [leaf for leaf in tree_iter(given) if isinstance(leaf, Tensor)]
        node = self._node(func, tensors)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Stopped(Stop(node, "random: the value changes from call to call (call eval() first)"))
        if not any(isinstance(leaf, Stand) for leaf in tensors):
            return self._computed(func(*args, **(kwargs or {})), tensors)
        name = func.overloadpacket.__name__
        if name.endswith("_like") or name.startswith("new_"):
            return self._computed(func(*tree_map(_plain, args), **tree_map(_plain, kwargs or {})), [])
        if func._schema.is_mutable:
            return self._written(func, name, given, node)
        return self._deduced(func, name, given, node)

    def _computed(self, result: Any, sources: list[Tensor]) -> Any:
        """Known tensors inherit the owner of what they were computed from."""
        owners = [self.owners[id(source)] for source in sources if id(source) in self.owners]
        if owners:
            for leaf in tree_iter(result):
                if isinstance(leaf, Tensor):
                    self.own(leaf, owners[-1])
        return result

    def _node(self, func: Any, tensors: list[Tensor]) -> Node:
        """The module being run or, where that is less precise, the owner of the weight."""
        owners = [self.owners[id(leaf)] for leaf in tensors if id(leaf) in self.owners]
        return Node(max([self.path[-1], *owners[-1:]], key=len), func.overloadpacket.__name__)

    def _written(self, func: Any, name: str, given: dict[str, Any], node: Node) -> Any:
        """In place: onto a stand-in without views, as the operation out of place would."""
        target = given.get("self")
        counterpart = getattr(torch.ops.aten, name.removesuffix("_"), None)
        if not isinstance(target, Stand) or target.shared or "out" in given or counterpart is None:
            raise Stopped(Stop(node, "writes in place into a tensor that has views, or whose values are known"))
        if name == "copy_":
            raise Stopped(Stop(node, "writes in place"))
        functional = getattr(counterpart, func._overloadname)
        result = self._deduced(functional, name.removesuffix("_"), given, node)
        if result.shape != target.shape:
            raise Stopped(Stop(node, "writes in place into a tensor of another shape"))
        target.facts = result.facts
        return target

    def _deduced(self, func: Any, name: str, given: dict[str, Any], node: Node) -> Any:
        if name == "index":
            given = {**given, "indices": _positions_of_masks(given["indices"])}
        shapes = self._shapes(func, given, node)
        lifted = tree_map(_lift, given)
        sources = [leaf for leaf in tree_iter(lifted, is_leaf=_is_facts) if _is_facts(leaf)]
        results = self._apply(func, name, lifted, sources, shapes)
        made = [Stand(like, _blamed(found, sources, node)) for like, found in zip(shapes, results, strict=True)]
        if func.is_view:
            for leaf in (*made, *(leaf for leaf in tree_iter(given) if isinstance(leaf, Stand))):
                leaf.shared = True
        listed = func._schema.returns[0].type.kind() == "ListType"
        return made if listed else tuple(made) if len(func._schema.returns) > 1 else made[0]

    def _shapes(self, func: Any, given: dict[str, Any], node: Node) -> list[Tensor]:
        """What the operation returns, on the meta device."""
        dependent = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        if dependent and func is not torch.ops.aten.index.Tensor:  # indices are positions by now, or stand-ins
            raise Stopped(Stop(node, "the program depends on the values of its arguments"))
        try:
            result = call(func, tree_map(_meta, given))
        except NotImplementedError as error:
            raise Stopped(Stop(node, "no rule for this operation")) from error
        found = [result] if isinstance(result, Tensor) else list(result) if isinstance(result, (list, tuple)) else []
        if not found or not all(isinstance(leaf, Tensor) for leaf in found):
            raise Stopped(Stop(node, "the program depends on the values of its arguments"))
        return found

    def _apply(
        self, func: Any, name: str, lifted: dict[str, Any], sources: list[Facts], like: list[Tensor]
    ) -> list[Facts]:
        rule = RULES.get(name)
        if rule is not None and not any(leaf.is_complex() for leaf in like):
            found = rule(func, lifted)
            results = list(found) if isinstance(found, tuple) else [found]
            if len(results) == len(like):
                return [_fitting(one, leaf) for one, leaf in zip(results, like, strict=True)]
        fixed = all(bool(source.fixed.all()) for source in sources)
        return [unknown(leaf.shape, "no rule for this operation", fixed) for leaf in like]


class Columns(TorchFunctionMode):
    """Products with vectors as products with matrices of one row or column; torch squeezes those in place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.numpy, Tensor.tolist, Tensor.__array__) and isinstance(args[0], Stand):
            raise Stopped(Stop(Node("", func.__name__), "the program depends on the values of its arguments"))
        products = (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__)
        if func not in products or kwargs or not any(isinstance(arg, Stand) for arg in args):
            return func(*args, **(kwargs or {}))
        a, b, *rest = args
        row, column = a.ndim == 1, b.ndim == 1 and func is not F.linear
        image = func(a.unsqueeze(0) if row else a, b.unsqueeze(-1) if column else b, *rest)
        image = image.squeeze(-1) if column else image
        return image.squeeze(-1 if column else -2) if row else image


def arguments_by_name(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of an ATen operation, defaults filled in."""
    schema = func._schema.arguments
    given = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return {**given, **{argument.name: value for argument, value in zip(schema, args, strict=False)}, **kwargs}


def _is_facts(leaf: object) -> bool:
    return isinstance(leaf, Facts)


def _facts_of(value: Tensor) -> Facts:
    return value.facts if isinstance(value, Stand) else known(value)


def _lift(leaf: object) -> object:
    return _facts_of(leaf) if isinstance(leaf, Tensor) else leaf


def _meta(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")


def _plain(leaf: object) -> object:
    return torch.zeros(leaf.shape, dtype=leaf.dtype) if isinstance(leaf, Stand) else leaf


def _positions_of_masks(indices: list[Tensor | None]) -> list[Tensor | None]:
    """Indices with each known mask as the positions where it holds, one tensor for each of its dimensions."""
    found: list[Tensor | None] = []
    for index in indices:
        mask = index is not None and index.dtype == torch.bool and not isinstance(index, Stand)
        found += list(index.nonzero().unbind(1)) if mask and index is not None else [index]
    return found


def _blamed(found: Facts, sources: list[Facts], node: Node) -> Facts:
    """The facts with the node that is to blame where curvature is lost, now or before."""
    here = Stop(node, found.reason or "no rule keeps this curvature")
    settles = found.form is not None and found.form.settled  # then products below it are not to blame
    stops = [source.stop for source in sources if not (settles and pending(source))]
    stop = next((stop for stop in stops if stop is not None), None)
    turn = next((source.turn for source in sources if source.turn is not None), None)
    if found.unknown:
        return replace(found, stop=stop or turn or here)
    return replace(found, turn=(turn or here) if found.mixed else None)


def _fitting(found: Facts, like: Tensor) -> Facts:
    """The facts, if they are about a tensor of this shape."""
    return found if found.lower.shape == like.shape else unknown(like.shape, "no rule for this operation")


def walk(
    f: nn.Module | Callable[..., Any],
    arguments: Sequence[Tensor],
    inputs: str | int | Sequence[str | int] | None = None,
    bounds: Mapping[str | int, Box] | None = None,
) -> list[Facts]:
    """What is known about each tensor that f returns; arguments as in certify. Raises Stopped."""
    if isinstance(f, nn.Module):
        f = copy.deepcopy(f).cpu()
    examples = list(arguments) or _examples(f)
    names = _names(f, len(examples))
    chosen = _positions(names, ("y" if "y" in names else range(len(examples))) if inputs is None else inputs)
    boxes = {_position(names, key): box for key, box in (bounds or {}).items()}
    with torch.no_grad():
        stands = [_stand(e, i in chosen, boxes.get(i, (-inf, inf))) for i, e in enumerate(examples)]
        with Columns(), Walk() as walking, _following(walking, f):
            returned = f(*stands)
        found = [_facts_of(leaf) for leaf in tree_iter(returned) if isinstance(leaf, Tensor)]
    if not found:
        raise ValueError(f"f returns {type(returned).__name__} without tensors, expected a tensor")
    return found


@contextmanager
def _following(walking: Walk, f: Any) -> Iterator[None]:
    """Tells the walk in which module of f it is, and whose the parameters are. f is a copy and keeps the hooks."""
    if isinstance(f, nn.Module):
        for name, tensor in (*f.named_parameters(), *f.named_buffers()):
            walking.own(tensor, name.rpartition(".")[0])
        for name, part in f.named_modules():
            part.register_forward_pre_hook(partial(_enter, walking.path, name))
            part.register_forward_hook(partial(_leave, walking.path))
    yield


def _enter(path: list[str], name: str, *_: object) -> None:
    path.append(name)


def _leave(path: list[str], *_: object) -> None:
    path.pop()


def _stand(example: Tensor, chosen: bool, box: Box) -> Tensor:
    if not example.is_floating_point():
        return example
    lower, upper = (torch.as_tensor(b, dtype=torch.float64).expand(example.shape) for b in box)
    if not bool((lower <= upper).all()):
        raise ValueError("bounds are contradictory, expected lower <= upper everywhere")
    return Stand(example.detach().to("meta"), variable(lower, upper, fixed=not chosen))


def _examples(f: Any) -> list[Tensor]:
    y_shape = getattr(f, "y_shape", None)
    if y_shape is None:
        raise ValueError("arguments are missing, expected one example tensor for each argument of f")
    shapes = [shape for shape in (getattr(f, "x_shape", None), y_shape) if shape is not None]
    return [torch.zeros(shape, dtype=next(f.parameters()).dtype) for shape in shapes]


def _names(f: Any, count: int) -> list[str]:
    """Names of the first arguments of f; positions where it has none to show."""
    try:
        names = list(inspect.signature(f.forward if isinstance(f, nn.Module) else f).parameters)
    except (TypeError, ValueError):
        names = []
    return (names + [str(i) for i in range(len(names), count)])[:count]


def _positions(names: list[str], keys: str | int | Sequence[str | int]) -> set[int]:
    return {_position(names, key) for key in ((keys,) if isinstance(keys, str | int) else keys)}


def _position(names: list[str], key: str | int) -> int:
    if isinstance(key, str) and key in names:
        return names.index(key)
    if isinstance(key, int) and 0 <= key < len(names):
        return key
    raise ValueError(f"inputs or bounds name {key!r}, expected one of {', '.join(names)} or a position")

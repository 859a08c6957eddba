"""Polynomials compared with what zenith.cross_entropy and its gradient mean, and the attributes that follow.

With t_j = (1 - a) [j = l] + a / V and T = Σ_j t_j:

    loss   = T lse - Σ_j t_j x_j + z lse²
    dx_j   = (g (T + 2 z lse) + h) exp(x_j - m) / s - g t_j

where lse = m + log s, g is the cotangent of the loss and h that of lse where lse is used beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from zenith_mlir.match.algebra.polynomial import Monomial, Polynomial, Tensor, Total
from zenith_mlir.match.cross_entropy.atoms import Exponential, Indicator
from zenith_mlir.match.cross_entropy.reader import CrossEntropyReader

# Attributes come from float32 constants of the program.
_TOLERANCE = 1e-5
# What labels outside may mean for an indicator.
_CANDIDATES = {"fill": ("fill",), "zero": ("zero", "drop")}


@dataclass(frozen=True)
class Terms:
    """The attributes of a loss, and the columns of its labels."""

    indicator: Indicator
    smoothing: float
    z_loss: float
    outside: str

    def share(self, reader: CrossEntropyReader) -> Polynomial:
        """T."""
        one = Polynomial.constant(1.0)
        at_label = reader.total(Polynomial.of(self.indicator), (reader.column,)) if self.outside == "zero" else one
        return at_label.scaled(1 - self.smoothing) + one.scaled(self.smoothing)

    def loss(self, reader: CrossEntropyReader) -> Polynomial:
        lse = log_sum_exp(reader)
        result = self.share(reader) * lse
        result -= reader.picked(self.indicator, reader.x).scaled(1 - self.smoothing)
        result -= reader.total(reader.x, (reader.column,)).scaled(self.smoothing / reader.space.size(reader.column))
        return result + (lse * lse).scaled(self.z_loss)

    def factor(self, reader: CrossEntropyReader) -> Polynomial:
        """T + 2 z lse."""
        return self.share(reader) + log_sum_exp(reader).scaled(2 * self.z_loss)


@dataclass(frozen=True)
class Cotangents:
    """What the gradient of a loss multiplies: g, and h where there is one. An h that is a number times g lse is a
    z-loss that the program adds up elsewhere: it is in the attributes then.
    """

    terms: Terms
    of_loss: Polynomial
    of_lse: Polynomial | None


def log_sum_exp(reader: CrossEntropyReader) -> Polynomial:
    return reader.maximum + reader.log_sum


def loss_terms(reader: CrossEntropyReader, polynomial: Polynomial) -> tuple[Terms, float] | None:
    """The attributes of the loss that `polynomial` is, and its sign; None if it is none."""
    found = reader.resolved(polynomial)
    indicator = _indicator(reader, found)
    if indicator is None:
        return None
    at_label = _coefficient(found, reader.picked(indicator, reader.x))
    spread = _coefficient(found, reader.total(reader.x, (reader.column,))) * reader.space.size(reader.column)
    sign = -1.0 if at_label > 0 else 1.0
    squared = _coefficient(found, reader.log_sum * reader.log_sum)
    for outside in _CANDIDATES[indicator.outside]:
        terms = Terms(indicator, _clean(-sign * spread), _clean(sign * squared), outside)
        ratio = found.ratio_to(terms.loss(reader))
        if ratio is not None and abs(ratio - sign) <= _TOLERANCE:
            return terms, sign
    return None


def gradient_cotangents(reader: CrossEntropyReader, polynomial: Polynomial, terms: Terms) -> Cotangents | None:
    """g and h of the gradient that `polynomial` is; None if it is none of a loss with these `terms`.

    A rule that somebody wrote for a loss may read labels outside in another way than the loss.
    """
    found = [
        cotangents
        for outside in {terms.outside: None, **dict.fromkeys(_CANDIDATES[terms.indicator.outside])}
        if (cotangents := _cotangents(reader, polynomial, replace(terms, outside=outside))) is not None
    ]
    return min(found, key=lambda cotangents: cotangents.of_lse is not None, default=None)


def _cotangents(reader: CrossEntropyReader, polynomial: Polynomial, terms: Terms) -> Cotangents | None:
    parts = _split(reader, reader.resolved(polynomial))
    if parts is None:
        return None
    weight, labels, rest = parts
    count = float(reader.space.size(reader.column))
    of_loss = (labels + rest.scaled(count)).scaled(-1.0)
    if not of_loss.terms or (rest.scaled(count) + of_loss.scaled(terms.smoothing)).terms:
        return None
    of_lse = weight * reader.sum - of_loss * terms.factor(reader)
    if not of_lse.terms:
        return Cotangents(terms, of_loss, None)
    twice = of_lse.ratio_to(of_loss * log_sum_exp(reader))
    if twice is None:
        return Cotangents(terms, of_loss, of_lse)
    return Cotangents(replace(terms, z_loss=_clean(terms.z_loss + twice / 2)), of_loss, None)


def gradient_terms(reader: CrossEntropyReader, polynomial: Polynomial) -> Terms | None:
    """The attributes of the loss whose gradient `polynomial` may be, where the program has no such loss."""
    found = reader.resolved(polynomial)
    parts = _split(reader, found)
    indicators = {atom for monomial in found.terms for atom, _ in monomial if isinstance(atom, Indicator)}
    if parts is None or len(indicators) != 1:
        return None
    _, labels, rest = parts
    spread = rest.scaled(float(reader.space.size(reader.column)))
    (indicator,) = indicators
    smoothing = spread.ratio_to(labels + spread) if spread.terms else 0.0
    return None if smoothing is None else Terms(indicator, _clean(smoothing), 0.0, indicator.outside)


def _split(reader: CrossEntropyReader, polynomial: Polynomial) -> tuple[Polynomial, Polynomial, Polynomial] | None:
    """What the exponentials, the label's column and all columns are multiplied by; None if there is more."""
    parts: dict[str, dict[Monomial, float]] = {"exponential": {}, "label": {}, "row": {}}
    for monomial, coefficient in polynomial.terms.items():
        wide = [(atom, power) for atom, power in monomial if reader.column in atom.axes(reader.space)]
        kind = "row"
        if wide:
            ((atom, power), *more) = wide
            if more or power != 1 or not isinstance(atom, Exponential | Indicator):
                return None
            kind = "label" if isinstance(atom, Indicator) else "exponential"
        parts[kind][monomial - frozenset(wide)] = coefficient
    if not parts["exponential"] or not parts["label"]:
        return None
    return Polynomial(parts["exponential"]), Polynomial(parts["label"]), Polynomial(parts["row"])


def _indicator(reader: CrossEntropyReader, polynomial: Polynomial) -> Indicator | None:
    """The one at whose column the logits are taken."""
    for monomial in polynomial.terms:
        for atom, _ in monomial:
            if isinstance(atom, Total):
                inner = [a for a, _ in atom.product]
                found = next((a for a in inner if isinstance(a, Indicator)), None)
                if found is not None and any(isinstance(a, Tensor) and a.value == reader.logits for a in inner):
                    return found
    return None


def _coefficient(polynomial: Polynomial, monomial: Polynomial) -> float:
    ((key, _),) = monomial.terms.items()
    return polynomial.terms.get(key, 0.0)


def _clean(number: float) -> float:
    """A decimal number as it was written, where float32 rounded it."""
    if abs(number) < _TOLERANCE * _TOLERANCE:
        return 0.0
    short = float(f"{number:.6g}")
    return short if abs(short - number) <= 1e-6 * abs(number) else number

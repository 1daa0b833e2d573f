"""Why the importer takes some operators never, or on constants alone: the reason that a user is told."""

from __future__ import annotations

from collections.abc import Mapping

_REASONS: Mapping[str, str] = {
    "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike": (
        "its numbers are random, and a compiled model gives the same output for the same input"
    ),
    "If Loop Scan SequenceMap": "it runs a graph of its own; export the model without control flow",
    "Compress NonMaxSuppression NonZero Unique": (
        "the shape of its output depends on the data; all shapes have to be known when the model is compiled"
    ),
    "ConstantOfShape Range": "it makes a tensor of a shape that is not known when the model is compiled",
    "BlackmanWindow HammingWindow HannWindow MelWeightMatrix": "what it is made of is not known at compile time",
    """
    ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
    SequenceLength SplitToSequence
    """: "it works on sequences of tensors; tinyopt takes tensors",
    "Optional OptionalGetElement OptionalHasElement": "it works on optional values; tinyopt takes tensors",
    "RegexFullMatch StringConcat StringNormalizer StringSplit TfIdfVectorizer LabelEncoder": "it works on text",
    "ImageDecoder": "it decodes image files: give the model decoded images",
}

REASONS: Mapping[str, str] = {operator: reason for names, reason in _REASONS.items() for operator in names.split()}
"""By operator."""

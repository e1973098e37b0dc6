"""Enhanced multi-frame CT: the tags of each frame as those of a slice, from the functional groups."""

from collections.abc import Iterable, Iterator

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from qctrun.runtime.reading.kinds import CT_IMAGE, ENHANCED_CT
from qctrun.runtime.reading.tags import items_of, numbers_of, value_of, whole_of, words_of

GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
SECOND_TUBE = "CTAdditionalXRaySourceSequence"
"""What else irradiated a frame of a scanner with two tubes."""


def frames_of(
    dataset: Dataset, storage: str, tags: list[str]
) -> Iterator[tuple[int | None, Dataset, tuple[str, ...]]]:
    """Take an object apart into its slices.

    What a frame's own functional groups say comes before the shared groups, and these before the object.

    Parameters
    ----------
    dataset : Dataset
        The object without its pixels.
    storage : str
        Its SOP class.
    tags : list of str
        Which tags to keep.

    Yields
    ------
    frame, tags, faults
        Index in the object (None for an object that is one slice), the tags, and what forbids to use them.
    """
    count = whole_of(dataset, "NumberOfFrames") or 1
    if storage not in ENHANCED_CT:
        several = count > 1 and storage == CT_IMAGE
        name = "CT Image Storage" if several else f"storage class {storage}"
        yield (
            None,
            dataset,
            (f"{count} frames in an object of {name}, which has no places for them",) * (count > 1),
        )
        return
    shared, own = (items_of(dataset, name) for name in GROUPS)
    faults = _group_faults(dataset, count, len(own))
    plain = Dataset()
    _take(plain, dataset, [tag_for_keyword(name) for name in tags if name not in GROUPS])
    wanted = [tag_for_keyword(name) for name in tags]
    for item in shared:
        _take_groups(plain, item, wanted)
    for frame in range(min(count, len(own)) or 1):
        merged = Dataset()
        merged.update(plain)
        if own:
            _take_groups(merged, own[frame], wanted)
        yield frame, merged, faults


def _group_faults(dataset: Dataset, count: int, described: int) -> tuple[str, ...]:
    if GROUPS[1] not in dataset or value_of(dataset, GROUPS[1]) is None:
        return ("an Enhanced object without PerFrameFunctionalGroupsSequence",)
    if described != count:
        return (f"{count} frames, and functional groups of {described}",)
    return ()


def _take_groups(target: Dataset, groups: Dataset, wanted: list[int | None]) -> None:
    """Each functional group is a sequence of one item that holds the tags, or of one for each tube voltage."""
    for element in groups:
        # A maker's own group may hold a whole other header.
        if element.VR == "SQ" and element.value and not element.tag.is_private:
            known = _voltages([target]) if element.keyword == SECOND_TUBE else []
            _take(target, element.value[0], wanted)
            voltages = dict.fromkeys(known + _voltages(element.value))
            if len(voltages) > 1:
                target.KVP = list(voltages)


def _voltages(items: Iterable[Dataset]) -> list[float]:
    counted = ((item, len(words_of(item, "KVP"))) for item in items)
    return [kvp for item, count in counted for kvp in numbers_of(item, "KVP", count) or ()]


def _take(target: Dataset, source: Dataset, wanted: list[int | None]) -> None:
    for tag in wanted:
        if tag is not None and tag in source:
            target[tag] = source.get_item(tag)

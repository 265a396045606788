//! Reads the map definitions in the eBPF object, before it is loaded.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context as _, anyhow, ensure};
use object::{File, Object as _, ObjectSection as _, ObjectSymbol as _};

use super::shape::Shape;

/// The section with the map definitions: consecutive `struct bpf_map_def` of aya-ebpf, with only 32-bit
/// members.
const SECTION: &str = "maps";

/// Size of a definition in bytes.
const DEFINITION: usize = 28;

/// The bytes of a definition that contain the kind of pinning.
const PINNING: Range<usize> = 24..28;

/// The maps that get pinned, by name.
pub(super) fn pinned_maps(object: &[u8]) -> anyhow::Result<BTreeMap<String, Shape>> {
    let file = File::parse(object).context("read the eBPF object")?;
    let section = file
        .section_by_name(SECTION)
        .context("the eBPF object has no maps")?;
    let data = section.data().context("read the eBPF object's maps")?;
    let mut maps = BTreeMap::new();
    for symbol in file.symbols() {
        if symbol.section_index() != Some(section.index()) {
            continue;
        }
        let name = symbol.name().context("read the name of a map")?;
        let begin = usize::try_from(symbol.address())?;
        let definition = data.get(begin..begin + DEFINITION);
        let definition =
            definition.ok_or_else(|| anyhow!("the eBPF object's map {name} is not complete"))?;
        let (members, _) = definition.as_chunks::<4>();
        let [kind, key_bytes, value_bytes, entries, _, _, pinning] =
            <[[u8; 4]; 7]>::try_from(members)?.map(u32::from_le_bytes);
        let shape = Shape {
            kind,
            key_bytes,
            value_bytes,
            entries,
        };
        if pinning != 0 {
            maps.insert(name.to_owned(), shape);
        }
    }
    ensure!(!maps.is_empty(), "the eBPF object pins no maps");
    Ok(maps)
}

/// The object with all pinning disabled. Returned as `u64` words, since its reader needs alignment.
pub(super) fn without_pins(object: &[u8]) -> anyhow::Result<Vec<u64>> {
    let file = File::parse(object).context("read the eBPF object")?;
    let section = file.section_by_name(SECTION);
    let (begin, bytes) = section
        .and_then(|section| section.file_range())
        .context("the eBPF object has no maps")?;
    let (begin, end) = (usize::try_from(begin)?, usize::try_from(begin + bytes)?);
    let mut words = vec![0_u64; object.len().div_ceil(size_of::<u64>())];
    let copy: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    copy[..object.len()].copy_from_slice(object);
    let definitions = copy
        .get_mut(begin..end)
        .context("the eBPF object's maps are not complete")?;
    for definition in definitions.chunks_exact_mut(DEFINITION) {
        definition[PINNING].fill(0);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::{super::OBJECT, *};

    #[test]
    fn maps_are_found_and_their_pins_taken_away() {
        let maps = pinned_maps(OBJECT).unwrap();
        let shape = maps["INTERFACES"];
        assert_eq!(shape.entries, sixxs_common::layout::INTERFACES);
        assert_eq!((shape.kind, shape.key_bytes, shape.value_bytes), (2, 4, 48));
        assert!(!maps.contains_key("SCRATCH"), "{maps:?}");
        let words = without_pins(OBJECT).unwrap();
        assert!(pinned_maps(bytemuck::cast_slice(&words)).is_err());
    }
}

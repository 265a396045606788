//! Assigns slots of the counters to interface names.
//!
//! A name keeps its slot for the lifetime of the pinned maps. So counters continue after a restart,
//! a changed order in the file, or a new interface index. The slot of an unused name is
//! reused only if all slots are taken.

use std::collections::BTreeMap;

use crate::types::IfName;

/// An assignment of slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotAssignment {
    /// The slot of each requested name.
    pub by_name: BTreeMap<IfName, u32>,
    /// Slots with a new name: the caller has to reset their counters and store the name.
    pub fresh: Vec<u32>,
}

/// There are more names than slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} interfaces need a slot, and there are {slots}")]
pub struct TooMany {
    /// Number of requested names.
    pub wanted: usize,
    /// Number of slots.
    pub slots: usize,
}

/// Assigns a slot to each of `wanted`; names in `held` keep theirs.
pub fn assign<'a>(
    held: &[Option<IfName>],
    wanted: impl IntoIterator<Item = &'a IfName>,
) -> Result<SlotAssignment, TooMany> {
    let mut slots = SlotAssignment::default();
    let mut new = Vec::new();
    let mut taken = vec![false; held.len()];
    for name in wanted {
        match held.iter().position(|holder| holder.as_ref() == Some(name)) {
            Some(slot) => {
                taken[slot] = true;
                slots.by_name.insert(name.clone(), number(slot));
            }
            None => new.push(name.clone()),
        }
    }
    let empty = (0..held.len()).filter(|slot| held[*slot].is_none());
    let forgotten = (0..held.len()).filter(|slot| held[*slot].is_some() && !taken[*slot]);
    let mut free = empty.chain(forgotten);
    let wanted = slots.by_name.len() + new.len();
    for name in new {
        let slot = free.next().ok_or(TooMany {
            wanted,
            slots: held.len(),
        })?;
        slots.by_name.insert(name, number(slot));
        slots.fresh.push(number(slot));
    }
    Ok(slots)
}

fn number(slot: usize) -> u32 {
    u32::try_from(slot).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    #[test]
    fn names_keep_their_slots() {
        let held = [Some(name("b")), None, Some(name("a")), None];
        let slots = assign(&held, &[name("a"), name("new"), name("b")]).unwrap();
        assert_eq!(slots.by_name[&name("a")], 2);
        assert_eq!(slots.by_name[&name("b")], 0);
        assert_eq!(slots.by_name[&name("new")], 1);
        assert_eq!(slots.fresh, [1]);
    }

    #[test]
    fn only_unused_names_lose_their_slots_and_only_if_all_are_taken() {
        let held = [Some(name("gone")), Some(name("a")), None];
        let slots = assign(&held, &[name("a"), name("x"), name("y")]).unwrap();
        assert_eq!(slots.by_name[&name("x")], 2);
        assert_eq!(slots.by_name[&name("y")], 0);
        let names = [name("a"), name("x"), name("y"), name("z")];
        assert_eq!(
            assign(&held, &names),
            Err(TooMany {
                wanted: 4,
                slots: 3
            })
        );
    }
}

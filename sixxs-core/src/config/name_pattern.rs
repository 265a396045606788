//! Patterns as names of interfaces (`ppp*`).

use super::Kind;
use crate::types::IfName;

/// The fault of a tunnel's name, if it is a pattern that cannot be used: a pattern is the beginning of a name, and other
/// software makes the interface.
pub(super) fn fault(name: &IfName, kind: Option<&Kind>) -> Option<String> {
    if !name.has_wildcard() {
        return None;
    }
    let is_beginning = |start: &str| !start.is_empty() && !start.contains('*');
    if !name.pattern().is_some_and(is_beginning) {
        return Some(format!(
            "expected `*` only at the end of a name, such as \"ppp*\", found {name}"
        ));
    }
    (!matches!(kind, None | Some(Kind::Interface))).then(|| {
        format!(
            "expected the name of one interface, found {name}: a pattern is for interfaces that other software makes \
             (kind = \"interface\")"
        )
    })
}

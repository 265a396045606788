//! Owns the checks of `lint` that no other tool has. Each is a function from sources or metadata to
//! violations, a line each.

pub(crate) mod boundaries;
pub(crate) mod cycles;
pub(crate) mod directions;
pub(crate) mod layout;
pub(crate) mod modules;
pub(crate) mod prose;
mod rust;
pub(crate) mod sizes;
pub(crate) mod source;
pub(crate) mod stray_paths;
pub(crate) mod times;
pub(crate) mod units;

//! The larger tasks, a module each.

pub(crate) mod launch;
pub(crate) mod lint;
pub(crate) mod page;
pub(crate) mod test;

//! Owns the virtual machines of the tests. `old_kernel` runs test binaries on an old kernel; `package`
//! installs the Debian package in a Debian of its own and boots that.
//!
//! `suites` lists the tests for the old kernel. `debian_kernel` gets the kernel, `binaries` builds the
//! programs, `image` packs a file system in memory, `disk` makes one on a disk, `boot` runs the machine.

mod binaries;
mod boot;
mod debian_kernel;
mod disk;
mod image;
pub(crate) mod old_kernel;
pub(crate) mod package;
pub(crate) mod requirements;
mod suites;

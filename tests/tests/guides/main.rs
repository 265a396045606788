//! Carries out the guides in docs/guides: writes each file and types each command, in a lab with the same
//! addresses. Also checks that all links of the docs and all paths in the pages about the code exist, and
//! that the docs explain all findings of `sixxs doctor`.

mod likeness;
mod links;
mod markdown;
mod paths;
mod place;
mod reader;
mod told;
mod troubleshooting;

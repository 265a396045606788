//! The guides in docs/guides, done as they stand there: every file written and every command typed, in
//! a lab whose addresses they have. And that whatever docs link to is
//! there, whatever pages about the code name as well, and whatever `sixxs doctor` finds is explained.

mod likeness;
mod links;
mod markdown;
mod paths;
mod place;
mod reader;
mod told;
mod troubleshooting;

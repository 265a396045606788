//! The guides in docs/guides, done as they stand there: every file written and every command typed, in
//! a lab whose addresses they have. And that whatever docs link to is
//! there, and whatever `sixxs doctor` finds is explained.

mod likeness;
mod links;
mod markdown;
mod place;
mod reader;
mod told;
mod troubleshooting;

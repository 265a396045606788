//! Tests of the documentation. The guides in docs/guides are carried out: every file is written and every
//! command run, in a lab with the addresses of the guide. Links of docs and paths in the pages about the
//! code must exist. Every finding of `sixxs doctor` must be explained.

mod cases;
mod links;
mod markdown;
mod output_match;
mod paths;
mod runner;
mod sandbox;
mod troubleshooting;

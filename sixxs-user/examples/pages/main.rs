//! Writes the documentation files that are installed with the program: a manual page for each command, one
//! for the configuration, and completions for shells. It is an example, so that the program itself does not
//! contain this code.
//!
//! `cargo run --example pages -- DIRECTORY`

mod commands;
mod configuration;
mod page;

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap_complete::{Shell, generate_to};

/// The only description of the configuration.
const REFERENCE: &str = include_str!("../../../docs/reference.md");

fn main() -> Result<()> {
    let directory = env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.context("expected a directory to write to")?;
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    for (name, text) in commands::pages()?
        .into_iter()
        .chain([configuration::page(REFERENCE)?])
    {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut sixxs_user::cli::command(), "sixxs", &directory)
            .with_context(|| format!("write what {shell} completes"))?;
    }
    Ok(())
}

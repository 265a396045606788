//! `sixxs init`: a first configuration, with comments. It never changes a file that exists.

mod host;
mod hurricane;

use std::{
    fs::File,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::output;
use crate::host::paths::Paths;

/// `sixxs init`.
#[derive(Args)]
pub(super) struct Arguments {
    /// Write to this new file instead of standard output.
    #[arg(long, global = true, value_name = "FILE")]
    output: Option<PathBuf>,
    /// For tests: the directory that holds the files of network managers.
    #[arg(long, hide = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    #[command(subcommand)]
    source: Option<Source>,
}

#[derive(Subcommand)]
enum Source {
    /// From the tunnels of an account at Hurricane Electric (tunnelbroker.net).
    He(hurricane::Arguments),
}

/// Carries out the command.
pub(super) async fn init(paths: &Paths, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments {
        output,
        root,
        source,
    } = arguments;
    if let Some(file) = &output
        && file.exists()
    {
        bail!(
            "{}: it exists, and is left as it is; name a new file",
            file.display()
        );
    }
    let text = match source {
        None => host::propose(&root).await?,
        Some(Source::He(arguments)) => hurricane::propose(paths, &arguments).await?,
    };
    match output {
        None => output::print(&text)?,
        Some(file) => {
            write_new(&file, &text)?;
            let shown = file.display();
            output::message(&format!("wrote {shown}; next: sixxs --config {shown} plan"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a new file that only its owner can read.
fn write_new(file: &Path, text: &str) -> anyhow::Result<()> {
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("write {}, which must not exist", file.display()))
}

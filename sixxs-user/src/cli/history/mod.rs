//! `sixxs history`: shows the availability and the outages of tunnels, from the daemon's records.
//!
//! `text` and `csv` are formats of the output; the JSON is in [`crate::history`].
//!
//! It reads the files directly, so it needs no daemon.

mod csv;
mod text;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{anyhow, bail};
use clap::Args;
use sixxs_core::{
    history::{Minute, Record, Summary},
    types::IfName,
};

use super::{locale, output};
use crate::{
    history::{
        self, read,
        report::{self, Period},
        time,
    },
    host::{clock::Clock, paths::Paths},
};

/// The command line.
#[derive(Args)]
pub(super) struct Arguments {
    /// Only these tunnels.
    names: Vec<String>,
    /// The period until now: a number with d, h or m, up to 400d.
    #[arg(long, value_name = "PERIOD", default_value = "30d", value_parser = time::period)]
    since: u32,
    /// Print CSV: a line for each minute with a record.
    #[arg(long)]
    csv: bool,
}

/// The records of a tunnel, in the order of time.
type Records = Vec<(Minute, Record)>;

pub(super) fn history(
    paths: &Paths,
    json: bool,
    arguments: &Arguments,
) -> anyhow::Result<ExitCode> {
    if json && arguments.csv {
        bail!("--json and --csv are two formats; choose one of them");
    }
    let until = Minute::of_unix(Clock::default().unix_seconds());
    let period = Period {
        from: until.minus(arguments.since.saturating_sub(1)),
        until,
    };
    let directory = history::directory(&paths.state_dir);
    let files = history::files(&directory).map_err(with_cure)?;
    let chosen = chosen(&files, &arguments.names)?;
    if arguments.csv {
        output::print(csv::HEADER)?;
        for (tunnel, file) in chosen {
            let records = read(&file, period.from, period.until)?;
            output::print(&csv::lines(&tunnel, &records))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut summaries = Vec::new();
    for (tunnel, file) in chosen {
        let records: Records = read(&file, period.from, period.until)?;
        summaries.push((tunnel, Summary::of(&records)));
    }
    let shown = match json {
        true => output::json_line(&report::report(period, &summaries))?,
        false => shown_text(period, &summaries, &directory),
    };
    output::print(&shown)?;
    Ok(ExitCode::SUCCESS)
}

/// Only root can read the files.
fn with_cure(error: anyhow::Error) -> anyhow::Error {
    let is_denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    match error.downcast_ref::<io::Error>().is_some_and(is_denied) {
        true => anyhow!("{error:#}; run it as root"),
        false => error,
    }
}

/// The tunnels with these names and their files, or all.
fn chosen(
    files: &BTreeMap<IfName, PathBuf>,
    names: &[String],
) -> anyhow::Result<Vec<(IfName, PathBuf)>> {
    let mut chosen = Vec::new();
    for name in names {
        let known = files.iter().find(|(tunnel, _)| tunnel.as_str() == name);
        match known {
            Some((tunnel, file)) => chosen.push((tunnel.clone(), file.clone())),
            None if files.is_empty() => bail!("no history of {name:?}; nothing is recorded yet"),
            None => {
                let known: Vec<_> = files.keys().map(IfName::as_str).collect();
                bail!("no history of {name:?}; there are {}", known.join(", "));
            }
        }
    }
    if names.is_empty() {
        chosen.extend(
            files
                .iter()
                .map(|(name, file)| (name.clone(), file.clone())),
        );
    }
    Ok(chosen)
}

fn shown_text(period: Period, summaries: &[(IfName, Summary)], directory: &Path) -> String {
    if summaries.is_empty() {
        return format!(
            "nothing is recorded yet in {}; the daemon records each minute when it has ended\n",
            directory.display()
        );
    }
    let is_ascii = !locale::is_utf8(locale::variable);
    let texts = summaries
        .iter()
        .map(|(tunnel, summary)| text::tunnel(tunnel, summary, period.until, is_ascii));
    texts.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_an_error_that_names_the_others() {
        let file = |name: &str| (name.parse().unwrap(), PathBuf::from(name));
        let files = BTreeMap::from([file("sixxs0"), file("ppp*")]);
        let names = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        let shown = |wanted: &[&str]| -> Vec<String> {
            let chosen = chosen(&files, &names(wanted)).unwrap();
            chosen.iter().map(|(name, _)| name.to_string()).collect()
        };
        assert_eq!(shown(&[]), ["ppp*", "sixxs0"]);
        assert_eq!(shown(&["sixxs0"]), ["sixxs0"]);
        let error = chosen(&files, &names(&["sixxs0", "sixxs9"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no history of \"sixxs9\"; there are ppp*, sixxs0"
        );
        let error = chosen(&BTreeMap::new(), &names(&["sixxs0"])).unwrap_err();
        assert!(
            error.to_string().ends_with("nothing is recorded yet"),
            "{error}"
        );
        assert!(chosen(&BTreeMap::new(), &[]).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_only_root_can_read_has_a_cure() {
        use anyhow::Context as _;
        let error = |kind: io::ErrorKind| -> anyhow::Result<()> {
            Err(io::Error::from(kind)).context("list /var/lib/sixxs/history")
        };
        let denied = with_cure(error(io::ErrorKind::PermissionDenied).unwrap_err());
        assert_eq!(
            format!("{denied:#}"),
            "list /var/lib/sixxs/history: permission denied; run it as root"
        );
        let other = with_cure(error(io::ErrorKind::NotADirectory).unwrap_err());
        assert!(!format!("{other:#}").contains("root"));
    }

    #[test]
    fn without_files_there_is_a_sentence() {
        let minute = Minute::new(29_893_440);
        let period = Period {
            from: minute,
            until: minute,
        };
        let text = shown_text(period, &[], Path::new("/var/lib/sixxs/history"));
        assert!(text.starts_with("nothing is recorded yet in /var/lib/sixxs/history;"));
    }
}

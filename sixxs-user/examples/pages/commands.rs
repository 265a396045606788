//! The manual pages of the commands: `sixxs(8)`, and one for each subcommand. They are generated from the
//! definition of the command line.

use anyhow::{Context as _, Result};
use clap::Command;
use clap_mangen::Man;

/// The manual section for system administration.
const SECTION: &str = "8";

/// The file names and the contents of all pages.
pub(crate) fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut whole = sixxs_user::cli::command();
    whole.build();
    let mut pages = Vec::new();
    add(&whole, &mut pages)?;
    // The program can also be called as `aiccu`.
    let alias = format!(".so man{SECTION}/sixxs-aiccu.{SECTION}\n");
    pages.push((format!("aiccu.{SECTION}"), alias.into_bytes()));
    Ok(pages)
}

/// Adds the pages of a command and of its subcommands.
fn add(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let man = Man::new(command.clone())
        .title(name)
        .section(SECTION)
        .source(format!("sixxs {}", env!("CARGO_PKG_VERSION")))
        .manual("sixxs");
    let mut text = Vec::new();
    man.render(&mut text)
        .with_context(|| format!("write the page of {name}"))?;
    text.extend(see_also(name).bytes());
    pages.push((format!("{name}.{SECTION}"), text));
    shown(command).try_for_each(|below| add(below, pages))
}

/// The visible subcommands.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    let below = command.get_subcommands();
    below.filter(|below| !below.is_hide_set() && below.get_name() != "help")
}

fn see_also(name: &str) -> String {
    let whole = match name {
        "sixxs" => String::new(),
        _ => format!(".BR sixxs ({SECTION}),\n"),
    };
    format!(".SH \"SEE ALSO\"\n{whole}.BR sixxs.toml (5)\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str, command: &Command) -> Vec<String> {
        let below =
            shown(command).flat_map(|below| names(&format!("{name}-{}", below.get_name()), below));
        [format!("{name}.8")].into_iter().chain(below).collect()
    }

    #[test]
    fn every_command_has_a_page_that_says_what_it_does() -> Result<()> {
        let mut expected = names("sixxs", &sixxs_user::cli::command());
        expected.push("aiccu.8".to_owned());
        let pages = pages()?;
        let found: Vec<_> = pages.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(found, expected);
        assert!(found.contains(&"sixxs-aiccu-start.8".to_owned()));
        for (name, text) in &pages {
            let text = String::from_utf8_lossy(text);
            assert!(
                text.starts_with(".so ") || text.contains(r" \- "),
                "{name}: {text}"
            );
        }
        Ok(())
    }
}

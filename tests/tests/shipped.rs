//! The installed configuration file: with its settings uncommented, the program accepts it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use sixxs_core::config::{self, Config};

const SHIPPED: &str = include_str!("../../deploy/sixxs.toml");
const REFERENCE: &str = include_str!("../../docs/reference.md");

/// The settings in it: lines whose `#` is not followed by a space.
fn settings() -> String {
    let lines = SHIPPED.lines().filter_map(|line| line.strip_prefix('#'));
    let settings = lines.filter(|line| !line.starts_with(' '));
    settings.map(|line| format!("{line}\n")).collect()
}

fn read(text: &str) -> Result<Config> {
    let account = "username A-SIXXS\npassword secret\ntunnel_id T1\nserver tic.example.net\n\
                   protocol tic\nipv6_interface sixxs0\n";
    let key = "6JE6zdqFNHGENX7+MQVWfqS7VmpKmjrYbKXpisHRElA=";
    let quick = format!("[Interface]\nPrivateKey = {key}\nAddress = 2001:db8:6::2/64\n");
    let files = |path: &str| {
        let text = match path {
            "/etc/wireguard/wg1.conf" => &quick,
            "/etc/sixxs/wg3.key" => key,
            path if path.ends_with(".key") => "the update key",
            _ => account,
        };
        Ok(text.as_bytes().to_vec().into())
    };
    config::parse_with("sixxs.toml", text, &files).context("read the configuration")
}

#[test]
fn as_it_is_it_asks_for_nothing() -> Result<()> {
    assert_eq!(read(SHIPPED)?, Config::default());
    Ok(())
}

#[test]
fn with_everything_uncommented_it_is_right() -> Result<()> {
    let config = read(&settings())?;
    assert_eq!(config.tunnels.len(), 11);
    assert_eq!(config.groups.len(), 1);
    Ok(())
}

/// The part of the reference about the configuration.
fn reference() -> Result<&'static str> {
    let (_, reference) = REFERENCE
        .split_once("\n## Configuration\n")
        .context("the part about the configuration")?;
    let (reference, _) = reference.split_once("\n## ").context("its end")?;
    Ok(reference)
}

/// All keys that the program knows, from its error messages for unknown keys.
fn keys_of_the_program() -> Result<BTreeSet<String>> {
    let unknown = "nonsense = 1\n[connect_limit]\nnonsense = 1\n[alert]\nnonsense = 1\n\
                   [[tunnel]]\nnonsense = 1\n[tunnel.update]\nnonsense = 1\n[tunnel.probe]\nnonsense = 1\n\
                   [[group]]\nnonsense = 1\n";
    let Err(refused) = config::parse("sixxs.toml", unknown) else {
        bail!("a key that nobody knows was taken");
    };
    let lists: Vec<_> = refused
        .diagnostics
        .iter()
        .filter_map(|fault| fault.message.strip_prefix("unknown key; expected one of "))
        .collect();
    ensure!(lists.len() == 7, "{refused}");
    let keys = lists.iter().flat_map(|list| list.split(", "));
    Ok(keys.map(str::to_owned).collect())
}

/// A new key of the program needs an entry in docs/reference.md.
#[test]
fn the_reference_has_every_key_of_the_program() -> Result<()> {
    let reference = reference()?;
    let is_there = |key: &String| {
        ["`KEY`", "`[KEY]`", "`[[KEY]]`", "\nKEY = "]
            .iter()
            .any(|form| reference.contains(&form.replace("KEY", key)))
    };
    let mut missing = keys_of_the_program()?;
    missing.retain(|key| !is_there(key));
    assert!(missing.is_empty(), "docs/reference.md lacks {missing:?}");
    Ok(())
}

/// A new key in docs/reference.md needs an entry in deploy/sixxs.toml.
#[test]
fn it_has_every_key_of_the_reference() -> Result<()> {
    let reference = reference()?;
    // Skips the table of aiccu.conf's keys.
    let (before, behind) = reference
        .split_once("\n| key of aiccu.conf |")
        .context("the keys of aiccu.conf")?;
    let behind = behind.split_once("\n\n").map_or("", |(_, behind)| behind);
    let settings = settings();
    let there: BTreeSet<_> = settings
        .lines()
        .map(|line| line.split_once(" = ").map_or(line, |(key, _)| key).trim())
        .collect();
    let mut missing = BTreeSet::new();
    for row in before.lines().chain(behind.lines()) {
        let Some(first) = row
            .strip_prefix("| `")
            .and_then(|row| row.split('|').next())
        else {
            continue;
        };
        let keys = first.split('`').step_by(2).map(str::trim);
        missing.extend(keys.filter(|key| !key.is_empty() && *key != "," && !there.contains(key)));
    }
    assert!(missing.is_empty(), "deploy/sixxs.toml lacks {missing:?}");
    Ok(())
}

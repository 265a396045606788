//! Maintains the file with the names of the routing tables of sixxs.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, bail};
use sixxs_core::{config::Config, table_names};

use crate::{host::files, host::paths::Paths};

/// Makes sure that the file exists and is correct. A foreign file of that name stays, and is an error.
/// Returns whether the file was missing.
pub fn ensure(paths: &Paths, config: &Config) -> anyhow::Result<bool> {
    let file = paths.table_names();
    let existing = read(&file)?;
    let mut made_directory = existing.as_deref().is_some_and(table_names::made_directory);
    if !paths.rt_tables_dir.exists() {
        fs::create_dir_all(&paths.rt_tables_dir)
            .with_context(|| format!("create {}", paths.rt_tables_dir.display()))?;
        made_directory = true;
    }
    let wanted = table_names::text(config, made_directory);
    let was_missing = existing.is_none();
    match existing {
        Some(text) if text == wanted => return Ok(false),
        Some(text) if !table_names::is_ours(&text) => bail!(
            "{} was not written by sixxs; move it away so that tables get names",
            file.display()
        ),
        _ => {}
    }
    // Write to another name first: `ip` reads only *.conf, so it never reads half a file.
    let draft = file.with_extension("new");
    files::remove_draft_on_error(&draft, write(&draft, &wanted, &file))?;
    Ok(was_missing)
}

fn write(draft: &Path, text: &str, file: &Path) -> anyhow::Result<()> {
    fs::write(draft, text).with_context(|| format!("write {}", draft.display()))?;
    // All users' `ip` may read it, regardless of the umask.
    fs::set_permissions(draft, fs::Permissions::from_mode(0o644))
        .with_context(|| format!("set the rights of {}", draft.display()))?;
    fs::rename(draft, file).with_context(|| format!("write {}", file.display()))
}

/// Removes the file, and the directory if sixxs made it and it is empty.
pub fn remove(paths: &Paths) -> anyhow::Result<()> {
    let file = paths.table_names();
    let Some(text) = read(&file)? else {
        return Ok(());
    };
    if !table_names::is_ours(&text) {
        return Ok(());
    }
    fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    if table_names::made_directory(&text) {
        // The directory stays if it has other files.
        match fs::remove_dir(&paths.rt_tables_dir) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                return Err(error)
                    .with_context(|| format!("remove {}", paths.rt_tables_dir.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

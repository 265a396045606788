//! Installs the package in a Debian of its own, and boots that two or three times. `guest/check` has the
//! conditions after each boot.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    binaries, boot, debian_kernel, disk,
    requirements::{HAS_KERNEL, Ran, missing_here},
};
use crate::{
    privilege::Privilege,
    product::{package, release},
    setup::plan::Needs,
    workspace::Workspace,
};

/// The extent of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Two reboots, with daemons killed before them, and an upgrade and the removal after them.
    Whole,
    /// One reboot.
    Short,
}

impl Extent {
    fn boots(self) -> u32 {
        match self {
            Self::Whole => 3,
            Self::Short => 2,
        }
    }
}

/// Limit of the run; a machine that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Does the short form if this machine has root and the programs.
pub(crate) fn run_if_possible(workspace: &Workspace) -> Result<Ran> {
    let programs = ["qemu-system-x86_64", "busybox", "cpio", "mmdebstrap"];
    let missing = missing_here(&programs)
        .or_else(|| (Privilege::find() == Privilege::None).then(|| "root is needed".to_owned()));
    if let Some(missing) = missing {
        return Ok(Ran::No(format!(
            "the package and two boots with it (boot): {missing}; `cargo xtask setup --vm` gets what \
             they need"
        )));
    }
    run(workspace, Extent::Short)?;
    Ok(Ran::Yes)
}

/// Makes the package and tests it. Gets missing programs.
pub(crate) fn run(workspace: &Workspace, extent: Extent) -> Result<()> {
    ensure!(
        HAS_KERNEL,
        "boot with the package: the kernel is one for x86_64, and so must be the package"
    );
    release::build(workspace, Needs::BOOT)?;
    let package = package::make(workspace)?;
    let lab = binaries::lab(workspace)?;
    let directory = workspace.target.join("vm");
    let kernel = debian_kernel::get(&directory)?;
    let boots = extent.boots();
    let disk = disk::make(
        &directory,
        &disk::Contents {
            kernel: &kernel,
            package: &package,
            lab: &lab,
            boots,
            is_short: extent == Extent::Short,
        },
    )?;
    let initramfs = disk::initramfs(&directory, &kernel)?;
    println!("booting {} {boots} times", kernel.release);
    let started = Instant::now();
    let machine = boot::Machine {
        kernel: &kernel.image,
        initramfs: &initramfs,
        disk: Some(&disk),
    };
    let transcript = boot::run(&machine, LIMIT)?;
    let held = judge(&transcript, boots)?;
    println!(
        "{held} checks passed in {boots} boots of {} in {} s",
        kernel.release,
        started.elapsed().as_secs()
    );
    Ok(())
}

/// The number of passed checks; an error unless all passed after every boot.
fn judge(transcript: &str, boots: u32) -> Result<usize> {
    let verb = "boot with the package";
    let count = |what: &str| {
        let lines = transcript.lines();
        lines.filter(|line| line.starts_with(what)).count()
    };
    let not_so = count("vm: not so: ");
    ensure!(not_so == 0, "{verb}: {not_so} checks failed, see above");
    let (booted, ended) = (count("vm: booted "), count("vm: ended with 0"));
    ensure!(
        booted == boots as usize && ended == booted,
        "{verb}: it booted {booted} times and got to the end {ended} times, not {boots} times"
    );
    let held = count("vm: ok: ");
    ensure!(held > booted, "{verb}: nothing was checked");
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "vm: booted 6.1\nvm: ok: a\nvm: ok: b\nvm: ended with 0\n";

    #[test]
    fn checks_of_all_boots_are_counted() {
        assert!(judge(&BOOT.repeat(3), 3).is_ok_and(|held| held == 6));
    }

    #[test]
    fn everything_else_is_a_failure() {
        for (transcript, word) in [
            (String::new(), "booted 0 times"),
            (BOOT.repeat(2), "booted 2 times"),
            (BOOT.repeat(3) + "vm: not so: c\n", "1 checks failed"),
            (
                BOOT.repeat(2) + "vm: booted 6.1\nvm: ok: a\n",
                "to the end 2 times",
            ),
            ("vm: booted 6.1\nvm: ended with 0\n".repeat(3), "nothing"),
        ] {
            let error = judge(&transcript, 3).unwrap_err().to_string();
            assert!(error.contains(word), "{transcript}: {error}");
        }
    }
}

//! Loads the programs, with the pinned maps of an earlier run.

use std::{path::Path, thread};

use anyhow::{Context as _, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::RingBuf,
    programs::{Program, SchedClassifier},
};
use tracing::{debug, warn};

use super::{
    EGRESS, HookChoice, Kernel, OBJECT, Rings, UNDERLAY, UNDERLAY_IP, XDP, find,
    hook::Attachments,
    inside_test::INJECT,
    live_test::HOLD,
    lost_pins, object,
    outside_test::LISTEN,
    pins::Pins,
    program,
    tables::{self, Tables},
    unscoped::FormerPins,
    xdp::XdpLinks,
};

/// Number of attempts to load while other software removes the directories of the pins.
const MAX_TRIES: u32 = 3;

impl Kernel {
    /// Loads the programs. They use the pinned maps of an earlier run, if there are any.
    pub fn load(
        pin_dir: &Path,
        hook: HookChoice,
        debugging: bool,
    ) -> anyhow::Result<(Self, Rings)> {
        let load_with = |pins: &Pins| Self::load_with(pins, hook, debugging);
        let refused = match Pins::prepare(pin_dir).and_then(|pins| load_with(&pins)) {
            Ok(loaded) => return Ok(loaded),
            Err(error) => error,
        };
        // Programs that cannot be pinned can still be attached.
        let Ok((mut kernel, rings)) = load_with(&Pins::disabled(pin_dir)?) else {
            return Err(refused);
        };
        kernel.unpinned = Some(format!(
            "nothing can be pinned: {refused:#}; programs end with the daemon, and count from zero (`sixxs doctor` \
             shows the fix; then restart it)"
        ));
        Ok((kernel, rings))
    }

    fn load_with(pins: &Pins, hook: HookChoice, debugging: bool) -> anyhow::Result<(Self, Rings)> {
        if !pins.is_enabled() {
            return Self::load_once(pins, Vec::new(), hook, debugging);
        }
        let maps = object::pinned_maps(OBJECT)?;
        for strange in pins.move_foreign_objects(&maps)? {
            warn!("{strange}");
        }
        if let Err(error) = lost_pins::restore(pins, &maps) {
            warn!("pin the maps of the attached programs again: {error:#}");
        }
        let mut former = Vec::new();
        for other in pins.other_versions()? {
            pins.adopt(&other)?;
            former.push(FormerPins {
                pins: other,
                is_shared: false,
            });
        }
        for _ in 1..MAX_TRIES {
            match Self::load_once(pins, former.clone(), hook, debugging) {
                // The directories were removed meanwhile.
                Err(_) if !pins.have_directories() => pins.create_directories()?,
                loaded => return loaded,
            }
        }
        Self::load_once(pins, former, hook, debugging)
    }

    fn load_once(
        pins: &Pins,
        former: Vec<FormerPins>,
        hook: HookChoice,
        debugging: bool,
    ) -> anyhow::Result<(Self, Rings)> {
        let level = if debugging {
            aya_log::Level::Debug as u8
        } else {
            0
        };
        let without_pins;
        let object = if pins.is_enabled() {
            OBJECT
        } else {
            without_pins = object::without_pins(OBJECT)?;
            bytemuck::cast_slice(&without_pins)
        };
        let are_new = pins.have_no_maps()?;
        let mut ebpf = loader()
            .btf(None)
            .default_map_pin_directory(pins.maps())
            .override_global(aya_log::LEVEL, &level, true)
            .load(object)
            .context("load the eBPF object")?;
        load_programs(&mut ebpf)?;
        let pinned = if pins.is_enabled() {
            pins.pinned_maps()?
        } else {
            Vec::new()
        };
        ensure!(
            !pinned.is_empty() || !pins.is_enabled(),
            "the pins have just been removed"
        );
        lost_pins::hold(program(&mut ebpf, EGRESS)?, &pinned)?;
        let events = RingBuf::try_from(tables::take(&mut ebpf, "EVENTS")?)?;
        let debugging = if debugging {
            let logger = aya_log::EbpfLogger::init(&mut ebpf).context("read the programs' log")?;
            Some(logger)
        } else {
            None
        };
        let tables = Tables::new(&mut ebpf, are_new)?;
        let kernel = Self {
            ebpf,
            tables,
            attachments: Attachments::new(pins.clone(), hook),
            xdp: XdpLinks::new(pins.clone()),
            xdp_unloaded: None,
            pins: pins.clone(),
            pinned,
            former,
            unpinned: None,
            has_earlier_programs: true,
        };
        let rings = Rings { events, debugging };
        Ok((kernel, rings))
    }
}

/// Programs that few hosts need. Each is loaded with its first use.
const ON_DEMAND: [&str; 3] = [UNDERLAY, UNDERLAY_IP, XDP];

/// Loads the programs that every host needs, in parallel: the kernel's verifier takes most of the start-up time.
fn load_programs(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let is_wanted = |(name, program): &(&str, &mut Program)| {
            // An extension is loaded for the dispatcher that it joins.
            !matches!(program, Program::Extension(_)) && !ON_DEMAND.contains(name)
        };
        let mut programs = ebpf.programs_mut().filter(is_wanted);
        let first = programs.next();
        let others: Vec<_> = programs
            .map(|(name, program)| (name, scope.spawn(|| load_program(program))))
            .collect();
        let mut outcomes = Vec::new();
        if let Some((name, program)) = first {
            outcomes.push((name, load_program(program)));
        }
        for (name, thread) in others {
            let outcome = thread
                .join()
                .map_err(|_panic| anyhow!("loading the program {name} panicked"))?;
            outcomes.push((name, outcome));
        }
        for (name, outcome) in outcomes {
            match outcome {
                // Only inside tests need it, and report that it is missing.
                Err(error) if name == INJECT || name == LISTEN => {
                    warn!("load the program {name}: {error:#}");
                }
                // The same for live tests, which are rare.
                Err(error) if name == HOLD => debug!("load the program {name}: {error:#}"),
                outcome => outcome.with_context(|| format!("load the program {name}"))?,
            }
        }
        Ok(())
    })
}

/// Loads a program, unless it is loaded.
pub(super) fn loaded<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Program> {
    let program = find(ebpf, name)?;
    if program.fd().is_err() {
        load_program(program).with_context(|| format!("load the program {name}"))?;
    }
    Ok(program)
}

/// A loader. aya up to 0.14 reads the kernel's BTF even if it is not used. Meanwhile a thread probes the
/// kernel's features, which a load needs.
fn loader() -> EbpfLoader<'static> {
    thread::scope(|scope| {
        scope.spawn(aya::features);
        EbpfLoader::new()
    })
}

fn load_program(program: &mut Program) -> anyhow::Result<()> {
    match program {
        Program::Xdp(program) => Ok(program.load()?),
        Program::CgroupSkb(program) => Ok(program.load()?),
        other => {
            let program: &mut SchedClassifier = other.try_into()?;
            Ok(program.load()?)
        }
    }
}

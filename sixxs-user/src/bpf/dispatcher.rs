//! Shares an interface with XDP programs of other owners, by libxdp's dispatcher (its `protocol.org`).
//!
//! A dispatcher never changes. To join or to leave, a new one is made from libxdp's own object file, all programs are
//! attached to it, and it replaces the former one in one step. By the pins, all owners know the programs:
//! `xdp/dispatch-IFINDEX-ID/progN-prog` and `progN-link`.

use std::{
    fs::{self, DirBuilder, File},
    os::{fd::AsFd as _, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData},
    programs::{Extension, ProgramFd, ProgramInfo, Xdp, links::FdLink, loaded_programs},
};
use nix::fcntl::{Flock, FlockArg};
use sixxs_core::{
    link::{Link, XdpProgram},
    xdp_dispatcher::{CAPACITY, Configuration, DISPATCHER, NotJoinable, Settings, function},
};
use tracing::debug;

use super::{Pins, find};
use crate::{host::files, netlink::replace_xdp};

/// The program in our object.
pub(super) const SHARED: &str = "sixxs_xdp_shared";

/// The variable by which libxdp takes another bpffs.
const BPFFS: &str = "LIBXDP_BPFFS";

/// The variable by which libxdp takes another directory for its object files.
const OBJECTS: &str = "LIBXDP_OBJECT_PATH";

/// libxdp's object file, and the directories where distributions install it.
const OBJECT: &str = "xdp-dispatcher.o";
const DIRECTORIES: [&str; 7] = [
    "/usr/lib/bpf",
    "/usr/lib64/bpf",
    "/usr/lib/x86_64-linux-gnu/bpf",
    "/usr/lib/aarch64-linux-gnu/bpf",
    "/usr/lib/riscv64-linux-gnu/bpf",
    "/usr/local/lib/bpf",
    "/usr/local/lib64/bpf",
];

/// A dispatcher that runs our program, by the numbers of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Joined {
    pub(super) dispatcher: u32,
    pub(super) program: u32,
    pub(super) since: Instant,
    /// Whether a scan has not found the dispatcher, which may have been too new for it.
    pub(super) is_doubtful: bool,
}

impl Joined {
    fn new(dispatcher: u32, program: u32) -> Self {
        Self {
            dispatcher,
            program,
            since: Instant::now(),
            is_doubtful: false,
        }
    }
}

/// A program that a dispatcher runs.
struct Member {
    name: String,
    id: u32,
    settings: Settings,
    program: Extension,
}

impl Member {
    /// The order in which programs run, as in libxdp.
    fn order(&self) -> (u32, &str) {
        (self.settings.priority, &self.name)
    }
}

/// The dispatcher that is attached to an interface.
struct Dispatcher<'a> {
    link: &'a Link,
    present: XdpProgram,
    descriptor: ProgramFd,
    configuration: Configuration,
    members: Vec<Member>,
    root: PathBuf,
    /// Other owners wait for it.
    _lock: Flock<File>,
}

/// Whether the dispatcher of an interface runs the program with this number.
pub(super) fn runs(pins: &Pins, link: &Link, program: u32) -> bool {
    let Some(present) = link.xdp else {
        return false;
    };
    let Ok(root) = root(pins) else {
        return false;
    };
    let directory = directory(&root, link, present.id);
    let is_it = |position| {
        ProgramInfo::from_pin(pin(&directory, position, "prog"))
            .is_ok_and(|info| info.id() == program)
    };
    (0..CAPACITY).any(is_it)
}

/// Whether the program at an interface is a dispatcher, by its pins.
pub(super) fn is_pinned(pins: &Pins, link: &Link) -> bool {
    let (Some(present), Ok(root)) = (link.xdp, root(pins)) else {
        return false;
    };
    directory(&root, link, present.id).is_dir()
}

/// Has the dispatcher of an interface run our program, instead of `former`, if that is there.
pub(super) fn join(
    pins: &Pins,
    ebpf: &mut Ebpf,
    link: &Link,
    former: Option<u32>,
) -> anyhow::Result<Joined> {
    ensure!(pins.is_enabled(), "nothing can be pinned");
    let mut dispatcher = Dispatcher::read(pins, link)?;
    dispatcher
        .members
        .retain(|member| Some(member.id) != former);
    let ours: &mut Extension = find(ebpf, SHARED)?.try_into()?;
    let joined = dispatcher.replace(Some(ours))?;
    let joined = joined.context("a dispatcher without programs")?;
    let path = pins.shared_xdp(link.index);
    files::remove_if_exists(&path)?;
    ours.pin(&path)
        .with_context(|| format!("pin {}", path.display()))?;
    Ok(joined)
}

/// What an earlier run has joined.
pub(super) fn earlier(pins: &Pins, link: &Link) -> Option<Joined> {
    let present = link.xdp?;
    let program = pinned(pins, link)?;
    runs(pins, link, program).then(|| Joined::new(present.id, program))
}

/// The number of our program that the last [`join`] has pinned.
fn pinned(pins: &Pins, link: &Link) -> Option<u32> {
    if !pins.is_enabled() {
        return None;
    }
    let info = ProgramInfo::from_pin(pins.shared_xdp(link.index)).ok()?;
    Some(info.id())
}

/// Whether it is the program of this object.
pub(super) fn is_of(ebpf: &mut Ebpf, program: u32) -> bool {
    let ours: Option<&mut Extension> = find(ebpf, SHARED)
        .ok()
        .and_then(|program| program.try_into().ok());
    let info = ours.and_then(|ours| ours.info().ok());
    info.is_some_and(|info| info.id() == program)
}

/// If the dispatcher of an interface runs our program, has it run the others only. Without others it is detached.
pub(super) fn leave(pins: &Pins, link: &Link) -> anyhow::Result<()> {
    let Some(Joined { program, .. }) = earlier(pins, link) else {
        return Ok(());
    };
    let mut dispatcher = Dispatcher::read(pins, link)?;
    dispatcher.members.retain(|member| member.id != program);
    dispatcher.replace(None)?;
    Ok(())
}

impl<'a> Dispatcher<'a> {
    fn read(pins: &Pins, link: &'a Link) -> anyhow::Result<Self> {
        let present = link.xdp.context("no program is attached")?;
        let root = root(pins)?;
        let file = File::open(&root).with_context(|| format!("open {}", root.display()))?;
        // Its owners hold the lock for milliseconds. The daemon must not wait for one that hangs.
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| anyhow!("another program changes it at the moment: {error}"))?;
        let mut programs = loaded_programs();
        let info = programs
            .find_map(|info| match info {
                Ok(info) if info.id() == present.id => Some(Ok(info)),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            })
            .context("it is gone")?
            .context("read it (that needs CAP_SYS_ADMIN)")?;
        ensure!(info.name() == DISPATCHER.as_bytes(), "it is none of libxdp");
        let maps = info.map_ids()?.unwrap_or_default();
        let [map] = maps[..] else {
            bail!(NotJoinable::Version);
        };
        let configuration = configuration(map)?;
        let directory = directory(&root, link, present.id);
        let mut members = Vec::new();
        for (position, settings) in configuration.programs().into_iter().enumerate() {
            let path = pin(&directory, position, "prog");
            let what = || format!("open {}", path.display());
            let program = Extension::from_pin(&path).with_context(what)?;
            let info = program.info().with_context(what)?;
            members.push(Member {
                name: info.name_as_str().unwrap_or_default().to_owned(),
                id: info.id(),
                settings,
                program,
            });
        }
        Ok(Self {
            link,
            present,
            descriptor: info.fd()?,
            configuration,
            members,
            root,
            _lock: lock,
        })
    }

    /// Replaces the dispatcher by one that runs its members, and our program if there is one. `None`: there are no
    /// programs, and it is detached.
    fn replace(mut self, ours: Option<&mut Extension>) -> anyhow::Result<Option<Joined>> {
        let former = directory(&self.root, self.link, self.present.id);
        let place = ours.as_ref().map(|_| {
            let ours = (Settings::DEFAULT.priority, SHARED);
            self.members.partition_point(|other| other.order() <= ours)
        });
        let mut settings: Vec<_> = self.members.iter().map(|member| member.settings).collect();
        settings.extend(place.map(|_| Settings::DEFAULT));
        if let Some(place) = place {
            settings[place..].rotate_right(1);
        }
        if settings.is_empty() {
            self.swap(None)?;
            remove(&former);
            return Ok(None);
        }
        let configuration = self.configuration.with_programs(&settings)?;
        let mut object = load(&configuration)?;
        let dispatcher: &mut Xdp = find(&mut object, DISPATCHER)?.try_into()?;
        dispatcher.load().context("load a dispatcher")?;
        let id = dispatcher.info()?.id();
        let descriptor = dispatcher.fd()?.try_clone()?;
        let new = directory(&self.root, self.link, id);
        let attached = self
            .attach_all(&descriptor, &new, place.zip(ours))
            .and_then(|program| {
                self.swap(Some(&descriptor))?;
                Ok(program)
            });
        match attached {
            Ok(program) => {
                remove(&former);
                Ok(program.map(|program| Joined::new(id, program)))
            }
            Err(error) => {
                remove(&new);
                Err(error)
            }
        }
    }

    /// Attaches all programs to a new dispatcher, and pins them. Returns the ID of the program of sixxs.
    fn attach_all(
        &mut self,
        dispatcher: &ProgramFd,
        directory: &Path,
        ours: Option<(usize, &mut Extension)>,
    ) -> anyhow::Result<Option<u32>> {
        let mut builder = DirBuilder::new();
        builder
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let place = ours.as_ref().map(|(place, _)| *place);
        let mut programs: Vec<&mut Extension> = self
            .members
            .iter_mut()
            .map(|member| &mut member.program)
            .collect();
        if let Some((place, ours)) = ours {
            programs.insert(place, ours);
        }
        let count = programs.len();
        let mut id = None;
        for (position, program) in programs.into_iter().enumerate() {
            let function = function(position, count);
            let is_loaded = program.fd().is_ok();
            let link = if is_loaded {
                program.attach_to_program(dispatcher, &function)
            } else {
                program
                    .load(dispatcher.try_clone()?, &function)
                    .and_then(|()| program.attach())
            };
            let link = link.with_context(|| format!("attach to {function}"))?;
            let link = FdLink::from(program.take_link(link)?);
            link.pin(pin(directory, position, "link"))
                .context("pin a link")?;
            program
                .pin(pin(directory, position, "prog"))
                .context("pin a program")?;
            if place == Some(position) {
                id = Some(program.info()?.id());
            }
        }
        Ok(id)
    }

    /// Replaces the dispatcher at the interface.
    fn swap(&self, by: Option<&ProgramFd>) -> anyhow::Result<()> {
        let (index, mode) = (self.link.index, self.present.mode);
        let by = by.map(|program| program.as_fd());
        replace_xdp(index, mode, self.descriptor.as_fd(), by)
    }
}

/// The configuration in a dispatcher's map.
fn configuration(map: u32) -> anyhow::Result<Configuration> {
    let data = MapData::from_id(map).context("open its map")?;
    let bytes = match data.info()?.value_size() {
        124 => value::<124>(data)?.to_vec(),
        128 => value::<128>(data)?.to_vec(),
        _ => bail!(NotJoinable::Version),
    };
    Ok(Configuration::read(&bytes)?)
}

fn value<const N: usize>(data: MapData) -> anyhow::Result<[u8; N]> {
    let map = Map::from_map_data(data)?;
    let array: Array<MapData, [u8; N]> = map.try_into()?;
    array.get(&0, 0).context("read its map")
}

/// libxdp's object, with this configuration.
fn load(configuration: &Configuration) -> anyhow::Result<Ebpf> {
    let chosen = std::env::var_os(OBJECTS).map(PathBuf::from);
    let mut directories = chosen.into_iter().chain(DIRECTORIES.map(PathBuf::from));
    let path = directories
        .find_map(|directory| Some(directory.join(OBJECT)).filter(|path| path.exists()))
        .with_context(|| format!("{OBJECT} is missing; it belongs to libxdp"))?;
    EbpfLoader::new()
        .override_global("conf", configuration.bytes(), true)
        .load_file(&path)
        .with_context(|| format!("load {}", path.display()))
}

/// The directory of libxdp's pins.
fn root(pins: &Pins) -> anyhow::Result<PathBuf> {
    let bpffs = match std::env::var_os(BPFFS) {
        Some(bpffs) => PathBuf::from(bpffs),
        None => pins.bpffs().context("there is no bpffs")?,
    };
    Ok(bpffs.join("xdp"))
}

/// The directory of the pins of a dispatcher's programs.
fn directory(root: &Path, link: &Link, dispatcher: u32) -> PathBuf {
    root.join(format!("dispatch-{}-{dispatcher}", link.index))
}

/// The pin of the `prog` or the `link` at a position.
fn pin(directory: &Path, position: usize, what: &str) -> PathBuf {
    directory.join(format!("prog{position}-{what}"))
}

/// Removes the pins of a dispatcher that is not attached.
fn remove(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory) {
        debug!("remove {}: {error}", directory.display());
    }
}

//! Direct access to the kernel's BPF for tests: lists the programs of an interface, attaches foreign
//! programs, and detaches programs. It uses bare system calls: bpftool supports TCX only from version 7.3,
//! and the library of the program under test must not check itself.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::libc;

use crate::netns::Namespace;

/// From the kernel's `enum bpf_cmd`.
#[derive(Clone, Copy)]
#[repr(i64)]
enum Command {
    MapCreate = 0,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgramLoad = 5,
    Pin = 6,
    GetPinned = 7,
    ProgramByNumber = 13,
    Information = 15,
    ProgramQuery = 16,
    LinkCreate = 28,
    LinkByNumber = 30,
    LinkDetach = 34,
}

/// `BPF_PROG_TYPE_SCHED_CLS`.
const SCHED_CLS: u32 = 3;

/// The `enum bpf_attach_type` of an interface's TCX hook.
const fn attach_type(ingress: bool) -> u32 {
    if ingress { 46 } else { 47 }
}

/// `r0 = -1` (next program, like the programs under test) and `exit`, as `struct bpf_insn`.
const EMPTY: [[u8; 8]; 2] = [
    [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    [0x95, 0, 0, 0, 0, 0, 0, 0],
];

/// Loads a program that does nothing.
pub fn load_empty() -> Result<OwnedFd> {
    load(&EMPTY)
}

/// Loads a program of this many instructions that does nothing. The time that it takes shows how fast the
/// kernel verifies programs at present.
pub fn load_straight(instructions: usize) -> Result<OwnedFd> {
    // r0 += 1
    let add = [0x07, 0, 0, 0, 1, 0, 0, 0];
    let [begin, end] = EMPTY;
    let mut program = vec![begin];
    program.resize(instructions.saturating_sub(1).max(1), add);
    program.push(end);
    load(&program)
}

fn load(program: &[[u8; 8]]) -> Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        program: u64,
        license: u64,
    }
    let mut load = Load {
        kind: SCHED_CLS,
        instructions: u32::try_from(program.len())?,
        program: program.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
    };
    // SAFETY: the structure begins like the kernel's union for this command; the objects behind its
    // pointers outlive the call.
    let loaded = unsafe { descriptor(Command::ProgramLoad, &mut load) };
    loaded.context("load a program; this needs root")
}

/// A program that is attached to an interface by TCX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attached {
    /// The program's ID.
    pub program: u32,
    /// The ID of the link that attaches it.
    pub link: u32,
}

/// The TCX programs of an interface, in the order they run. Empty on kernels without TCX (before 6.6), and if
/// the interface does not exist.
pub fn tcx(namespace: &Namespace, interface: &str, ingress: bool) -> Result<Vec<Attached>> {
    namespace.run(|| tcx_here(interface, ingress))
}

/// Like [`tcx`], in the namespace of this thread.
pub fn tcx_here(interface: &str, ingress: bool) -> Result<Vec<Attached>> {
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        target_ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        padding: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let target_ifindex = match nix::net::if_::if_nametoindex(interface) {
        Ok(index) => index,
        Err(Errno::ENODEV) => return Ok(Vec::new()),
        Err(e) => return Err(e).with_context(|| format!("find interface {interface}")),
    };
    let mut programs = [0_u32; 64];
    let mut links = [0_u32; 64];
    let mut query = Query {
        target_ifindex,
        attach_type: attach_type(ingress),
        prog_ids: programs.as_mut_ptr() as u64,
        prog_cnt: u32::try_from(programs.len())?,
        link_ids: links.as_mut_ptr() as u64,
        ..Query::default()
    };
    // SAFETY: the structure has the layout of kernel 6.6 for this command; both arrays outlive the call and
    // have room for `prog_cnt` numbers.
    match unsafe { call(Command::ProgramQuery, &mut query) } {
        Ok(_) => {}
        // No TCX; or the interface was deleted meanwhile.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)) => {
            return Ok(Vec::new());
        }
        Err(e) => {
            return Err(e).with_context(|| format!("ask for the TCX programs of {interface}"));
        }
    }
    let both = programs.iter().zip(&links).take(query.prog_cnt as usize);
    let attached = both.map(|(program, link)| Attached {
        program: *program,
        link: *link,
    });
    Ok(attached.collect())
}

/// The name of a loaded program; `None` if the program is no longer loaded.
pub fn program_name(number: u32) -> Result<Option<String>> {
    /// `struct bpf_prog_info` up to the name, which the kernel truncates to 15 characters.
    #[repr(C)]
    #[derive(Default)]
    struct Information {
        kind: u32,
        number: u32,
        tag: [u8; 8],
        lengths: [u32; 2],
        instructions: [u64; 2],
        load_time: u64,
        created_by: u32,
        maps: u32,
        map_numbers: u64,
        name: [u8; 16],
    }
    #[repr(C)]
    struct Ask {
        descriptor: u32,
        length: u32,
        information: u64,
    }
    let Some(program) = by_number(Command::ProgramByNumber, number)? else {
        return Ok(None);
    };
    let mut information = Information::default();
    let mut ask = Ask {
        descriptor: u32::try_from(program.as_raw_fd())?,
        length: u32::try_from(size_of::<Information>())?,
        information: (&raw mut information) as u64,
    };
    // SAFETY: the structure has the layout of the kernel's union for this command. It points to `length`
    // bytes that the kernel may write, and all of them are plain numbers.
    unsafe { call(Command::Information, &mut ask) }.context("ask for a program's name")?;
    let name = information.name.iter().take_while(|byte| **byte != 0);
    Ok(Some(name.map(|byte| char::from(*byte)).collect()))
}

/// Position among an interface's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Before all others.
    First,
    /// After all others.
    Last,
}

/// Attaches a program to an interface by TCX; it stays until the link is dropped.
pub fn attach(
    namespace: &Namespace,
    program: &OwnedFd,
    interface: &str,
    ingress: bool,
    order: Order,
) -> Result<OwnedFd> {
    /// `BPF_F_BEFORE` and `BPF_F_AFTER`; without a relative program they mean first and last.
    const BEFORE: u32 = 8;
    const AFTER: u32 = 16;
    #[repr(C)]
    struct Link {
        program: u32,
        interface: u32,
        attach_type: u32,
        flags: u32,
        relative: u32,
        padding: u32,
        revision: u64,
    }
    namespace.run(|| {
        let index = nix::net::if_::if_nametoindex(interface);
        let mut link = Link {
            program: u32::try_from(program.as_raw_fd())?,
            interface: index.with_context(|| format!("find interface {interface}"))?,
            attach_type: attach_type(ingress),
            flags: match order {
                Order::First => BEFORE,
                Order::Last => AFTER,
            },
            relative: 0,
            padding: 0,
            revision: 0,
        };
        // SAFETY: the structure has the layout of kernel 6.6 for this command, and no pointers.
        let made = unsafe { descriptor(Command::LinkCreate, &mut link) };
        made.with_context(|| format!("attach a program to {interface}"))
    })
}

/// Detaches a link by force; its pin stays, and refers to a link without a program. False if the link does
/// not exist.
pub fn detach(link: u32) -> Result<bool> {
    let Some(link) = by_number(Command::LinkByNumber, link)? else {
        return Ok(false);
    };
    let mut descriptor = u32::try_from(link.as_raw_fd())?;
    // SAFETY: the command's only argument is a descriptor.
    unsafe { call(Command::LinkDetach, &mut descriptor) }.context("detach a link")?;
    Ok(true)
}

/// Makes an array (`per_processor`: a per-CPU array) with `entries` values of the size of `value`, writes
/// `value` to the entry with index `entry` (for each CPU), and pins the array.
pub fn pin_array(
    path: &Path,
    per_processor: bool,
    entries: u32,
    entry: u32,
    value: &[u8],
) -> Result<()> {
    const ARRAY: u32 = 2;
    const PER_PROCESSOR_ARRAY: u32 = 6;
    #[repr(C)]
    struct Create {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Update {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let mut create = Create {
        kind: if per_processor {
            PER_PROCESSOR_ARRAY
        } else {
            ARRAY
        },
        key_size: 4,
        value_size: u32::try_from(value.len())?,
        max_entries: entries,
        flags: 0,
    };
    // SAFETY: the structure begins like the kernel's union for this command, and no pointers.
    let map = unsafe { descriptor(Command::MapCreate, &mut create) }.context("make a map")?;
    let copies = if per_processor {
        possible_processors()?
    } else {
        1
    };
    // The kernel rounds each CPU's value up to 8 bytes.
    let mut padded = value.to_vec();
    padded.resize(value.len().next_multiple_of(8), 0);
    let values = padded.repeat(copies);
    let mut update = Update {
        map: u32::try_from(map.as_raw_fd())?,
        padding: 0,
        key: (&raw const entry) as u64,
        value: values.as_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the structure has the layout of the kernel's union for this command. The key has 4 bytes, and
    // `values` has the number and size of values that the kernel reads. Both outlive the call.
    unsafe { call(Command::MapUpdate, &mut update) }.context("fill a map")?;
    pin(path, &map)
}

/// Pins a map or a link.
pub fn pin(path: &Path, object: &OwnedFd) -> Result<()> {
    #[repr(C)]
    struct Pin {
        path: u64,
        descriptor: u32,
        flags: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = Pin {
        path: name.as_ptr() as u64,
        descriptor: u32::try_from(object.as_raw_fd())?,
        flags: 0,
    };
    // SAFETY: the structure has the layout of the kernel's union for this command; the path ends with a zero
    // and outlives the call.
    unsafe { call(Command::Pin, &mut pin) }.with_context(|| format!("pin {}", path.display()))?;
    Ok(())
}

/// Empties a pinned map, as an administrator could with bpftool: fills an array with zeroes, and deletes the
/// entries of any other map.
pub fn wipe(path: &Path) -> Result<()> {
    #[repr(C)]
    #[derive(Default)]
    struct Information {
        kind: u32,
        number: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    }
    #[repr(C)]
    struct Ask {
        descriptor: u32,
        length: u32,
        information: u64,
    }
    #[repr(C)]
    struct Element {
        map: u32,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    const ARRAY: u32 = 2;
    let map = pinned(path)?;
    let mut information = Information::default();
    let mut ask = Ask {
        descriptor: u32::try_from(map.as_raw_fd())?,
        length: u32::try_from(size_of::<Information>())?,
        information: (&raw mut information) as u64,
    };
    // SAFETY: the structure has the layout of the kernel's union for this command. It points to `length`
    // bytes that the kernel may write, and all of them are plain numbers.
    unsafe { call(Command::Information, &mut ask) }.context("ask for a map's shape")?;
    let value = vec![0_u8; information.value_size as usize];
    let mut key = vec![0_u8; information.key_size as usize];
    let element = |key: &[u8], value: u64| -> Result<Element> {
        Ok(Element {
            map: u32::try_from(map.as_raw_fd())?,
            padding: 0,
            key: key.as_ptr() as u64,
            value,
            flags: 0,
        })
    };
    if information.kind == ARRAY {
        for entry in 0..information.max_entries {
            let entry = entry.to_ne_bytes();
            let mut element = element(&entry, value.as_ptr() as u64)?;
            // SAFETY: the structure has the layout of the kernel's union for this command; key and value have
            // the sizes that the map reports, and outlive the call.
            unsafe { call(Command::MapUpdate, &mut element) }.context("write to a map")?;
        }
        return Ok(());
    }
    loop {
        let first = key.as_mut_ptr() as u64;
        let mut next = element(&[], first)?;
        next.key = 0;
        // SAFETY: the structure has the layout of the kernel's union for this command. Without a key the
        // kernel writes the first one to `key`, which has the map's key size.
        match unsafe { call(Command::MapNextKey, &mut next) } {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).context("read a map's first key"),
        }
        let mut element = element(&key, 0)?;
        // SAFETY: the structure has the layout of the kernel's union for this command; the key has the size
        // that the map reports, and outlives the call.
        unsafe { call(Command::MapDelete, &mut element) }.context("delete from a map")?;
    }
}

fn pinned(path: &Path) -> Result<OwnedFd> {
    #[repr(C)]
    struct Get {
        path: u64,
        descriptor: u32,
        flags: u32,
    }
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut get = Get {
        path: name.as_ptr() as u64,
        descriptor: 0,
        flags: 0,
    };
    // SAFETY: the structure has the layout of the kernel's union for this command; the path ends with a zero
    // and outlives the call.
    let map = unsafe { descriptor(Command::GetPinned, &mut get) };
    map.with_context(|| format!("open {}", path.display()))
}

/// Number of possible CPUs, which is the number of values in a per-CPU map. The file contains `0-3`, for
/// example.
fn possible_processors() -> Result<usize> {
    const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
    let range = std::fs::read_to_string(POSSIBLE).with_context(|| format!("read {POSSIBLE}"))?;
    let last = range.trim().rsplit(['-', ',']).next().unwrap_or_default();
    Ok(last
        .parse::<usize>()
        .with_context(|| format!("read {range:?}"))?
        + 1)
}

fn by_number(command: Command, number: u32) -> Result<Option<OwnedFd>> {
    #[repr(C)]
    struct Get {
        number: u32,
        next: u32,
        flags: u32,
    }
    let mut get = Get {
        number,
        next: 0,
        flags: 0,
    };
    // SAFETY: the structure begins like the kernel's union for this command, and no pointers.
    match unsafe { descriptor(command, &mut get) } {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context("get a BPF object by its number"),
    }
}

/// # Safety
///
/// `attributes` begins like `union bpf_attr` for the command, and its pointers are valid.
unsafe fn call<T>(command: Command, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: as the caller promises; the length is the size of `attributes`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            &raw mut *attributes,
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// # Safety
///
/// As for [`call`], and the command returns a new descriptor.
unsafe fn descriptor<T>(command: Command, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller promises.
    let made = unsafe { call(command, attributes) }?;
    // SAFETY: the kernel just made this descriptor, and no other code owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// The IDs of the programs that [`tcx`] lists.
pub fn tcx_programs(namespace: &Namespace, interface: &str, ingress: bool) -> Result<Vec<u32>> {
    let attached = tcx(namespace, interface, ingress)?;
    Ok(attached.iter().map(|attached| attached.program).collect())
}

/// The TCX programs of an interface that have this name.
pub fn tcx_named(
    namespace: &Namespace,
    interface: &str,
    ingress: bool,
    name: &str,
) -> Result<Vec<Attached>> {
    ensure!(name.len() < 16, "{name} is too long for a program");
    let mut named = Vec::new();
    for attached in tcx(namespace, interface, ingress)? {
        if program_name(attached.program)?.as_deref() == Some(name) {
            named.push(attached);
        }
    }
    Ok(named)
}

//! What tasks cannot do without.

/// Programs of the lab, by name or by path, and the Debian packages that have them.
const LAB_PROGRAMS: &[(&str, &str)] = &[
    ("/lib/systemd/systemd-networkd", "systemd"),
    ("dbus-daemon", "dbus-daemon"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("tmux", "tmux"),
    ("wg", "wireguard-tools"),
];

/// What the tests on an old kernel need besides.
const VM_PROGRAMS: &[(&str, &str)] = &[
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("mke2fs", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("qemu-system-x86_64", "qemu-system-x86"),
];

/// What lint needs besides.
const LINT_PROGRAMS: &[(&str, &str)] = &[("systemd-analyze", "systemd")];

/// What making the package needs besides.
const DIST_PROGRAMS: &[(&str, &str)] = &[("dpkg-shlibdeps", "dpkg-dev")];

/// What the task at hand cannot do without. The eBPF build is always among it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs {
    /// The programs of the lab.
    pub(crate) lab: bool,
    /// The programs of the virtual machine with an old kernel.
    pub(crate) vm: bool,
    /// cargo-deny, and clippy for the eBPF crate.
    pub(crate) lint: bool,
    /// cargo-deb, and what it calls.
    pub(crate) dist: bool,
}

impl Needs {
    /// To build.
    pub(crate) const BUILD: Self = Self {
        lab: false,
        vm: false,
        lint: false,
        dist: false,
    };
    /// To build, and to run tests or the lab.
    pub(crate) const TEST: Self = Self {
        lab: true,
        ..Self::BUILD
    };
    /// The same, and to run tests on an old kernel.
    pub(crate) const VM: Self = Self {
        vm: true,
        ..Self::TEST
    };
    /// The same, and to make the package.
    pub(crate) const BOOT: Self = Self {
        dist: true,
        ..Self::VM
    };
    /// To build and lint.
    pub(crate) const LINT: Self = Self {
        lint: true,
        ..Self::BUILD
    };

    /// To build and make the package.
    pub(crate) const DIST: Self = Self {
        dist: true,
        ..Self::BUILD
    };

    /// Programs, and the Debian packages that have them.
    pub(crate) fn programs(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let lab = self.lab.then_some(LAB_PROGRAMS);
        let vm = self.vm.then_some(VM_PROGRAMS);
        let lint = self.lint.then_some(LINT_PROGRAMS);
        let dist = self.dist.then_some(DIST_PROGRAMS);
        let lists = [lab, vm, lint, dist].into_iter();
        lists.flatten().flatten().copied()
    }
}

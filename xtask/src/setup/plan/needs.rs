//! The requirements of each task.

/// A program, and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    /// Its name, or its whole path.
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    /// How setup gets it.
    pub(crate) source: Source,
}

/// How a missing program is got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Unpacked into the target directory. The host's packages do not change, and cannot be in the way.
    /// Libraries come along by themselves; these packages have to be named.
    Unpacked { with: &'static [&'static str] },
    /// Installed: the program works only from its own place.
    Installed,
}

const fn unpacked(name: &'static str, package: &'static str) -> Program {
    Program {
        name,
        package,
        source: Source::Unpacked { with: &[] },
    }
}

const fn installed(name: &'static str, package: &'static str) -> Program {
    Program {
        name,
        package,
        source: Source::Installed,
    }
}

/// Programs of the lab.
const LAB_PROGRAMS: &[Program] = &[
    installed("/lib/systemd/systemd-networkd", "systemd"),
    unpacked("dbus-daemon", "dbus-daemon"),
    unpacked("ethtool", "ethtool"),
    unpacked("ip", "iproute2"),
    unpacked("nft", "nftables"),
    unpacked("ping", "iputils-ping"),
    unpacked("tmux", "tmux"),
    unpacked("wg", "wireguard-tools"),
];

/// What the tests on an old kernel need besides.
const VM_PROGRAMS: &[Program] = &[
    unpacked("busybox", "busybox-static"),
    unpacked("cpio", "cpio"),
    unpacked("mke2fs", "e2fsprogs"),
    unpacked("mmdebstrap", "mmdebstrap"),
    Program {
        name: "qemu-system-x86_64",
        package: "qemu-system-x86",
        source: Source::Unpacked {
            // Modules, firmware and the BIOS.
            with: &["qemu-system-common", "qemu-system-data", "seabios"],
        },
    },
];

/// What lint needs besides.
const LINT_PROGRAMS: &[Program] = &[installed("systemd-analyze", "systemd")];

/// What making the package needs besides.
const DIST_PROGRAMS: &[Program] = &[installed("dpkg-shlibdeps", "dpkg-dev")];

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

    /// Programs that the task calls.
    pub(crate) fn programs(self) -> impl Iterator<Item = Program> {
        let lab = self.lab.then_some(LAB_PROGRAMS);
        let vm = self.vm.then_some(VM_PROGRAMS);
        let lint = self.lint.then_some(LINT_PROGRAMS);
        let dist = self.dist.then_some(DIST_PROGRAMS);
        let lists = [lab, vm, lint, dist].into_iter();
        lists.flatten().flatten().copied()
    }
}

//! The requirements of each task.

/// A program, and the Debian package that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    /// Its name, or its whole path.
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    /// How setup provides it.
    pub(crate) source: Source,
}

/// How a missing program is provided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Unpacked into the target directory, so the host's packages stay as they are. apt-get adds libraries;
    /// `with` names other packages to unpack.
    Unpacked { with: &'static [&'static str] },
    /// Installed, since the program works only at its own path.
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
    unpacked("dhcpcd", "dhcpcd-base"),
    unpacked("ethtool", "ethtool"),
    unpacked("ip", "iproute2"),
    Program {
        name: "kea-dhcp6",
        package: "kea-dhcp6-server",
        source: Source::Unpacked {
            with: &["kea-common"],
        },
    },
    unpacked("nft", "nftables"),
    unpacked("ping", "iputils-ping"),
    unpacked("radvd", "radvd"),
    unpacked("tmux", "tmux"),
    unpacked("wg", "wireguard-tools"),
];

/// Additional programs for tests on an old kernel.
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
    Program {
        name: "xdp-loader",
        package: "xdp-tools",
        // libxdp has the dispatcher.
        source: Source::Unpacked { with: &["libxdp1"] },
    },
];

/// Additional programs for lint.
const LINT_PROGRAMS: &[Program] = &[installed("systemd-analyze", "systemd")];

/// Additional programs for making the package.
const DIST_PROGRAMS: &[Program] = &[installed("dpkg-shlibdeps", "dpkg-dev")];

/// The needs of a task, in addition to the eBPF build.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needs {
    /// The programs of the lab.
    pub(crate) lab: bool,
    /// The programs of the virtual machine with an old kernel.
    pub(crate) vm: bool,
    /// cargo-deny, and clippy for the eBPF crate.
    pub(crate) lint: bool,
    /// cargo-deb, and the programs that it calls.
    pub(crate) dist: bool,
}

impl Needs {
    /// Needs of a build.
    pub(crate) const BUILD: Self = Self {
        lab: false,
        vm: false,
        lint: false,
        dist: false,
    };
    /// Needs of a build, and of the tests or the lab.
    pub(crate) const TEST: Self = Self {
        lab: true,
        ..Self::BUILD
    };
    /// The same, and needs of tests on an old kernel.
    pub(crate) const VM: Self = Self {
        vm: true,
        ..Self::TEST
    };
    /// The same, and needs of the package.
    pub(crate) const BOOT: Self = Self {
        dist: true,
        ..Self::VM
    };
    /// Needs of a build and of lint.
    pub(crate) const LINT: Self = Self {
        lint: true,
        ..Self::BUILD
    };

    /// Needs of a build and of the package.
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

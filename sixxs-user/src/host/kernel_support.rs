//! Checks whether this kernel has the necessary features, with messages for users. Features that only an
//! attempt can detect are explained when the attempt fails.

use std::{fs, path::Path, sync::LazyLock};

use anyhow::bail;
use sixxs_core::doctor;

/// Fails if a feature is missing that everything needs. Returns warnings.
pub(crate) fn check() -> anyhow::Result<Vec<String>> {
    if !has_ipv6() {
        bail!(
            "this kernel has no IPv6: it was built without CONFIG_IPV6, or started with \
             ipv6.disable=1"
        );
    }
    Ok(doctor::too_old(&release()).into_iter().collect())
}

/// The kernel release like `uname -r`; empty if it cannot be read.
pub(crate) fn release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease");
    release.unwrap_or_default().trim().to_owned()
}

/// Whether the programs in the kernel can carry 6in4 tunnels.
pub(crate) fn can_carry() -> bool {
    static CAN: LazyLock<bool> = LazyLock::new(|| doctor::has_decapsulation(&release()));
    *CAN
}

/// Whether the kernel has IPv6, and it was not disabled at boot.
pub(crate) fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// Possible cause and cure if the kernel refused BPF.
pub(crate) fn why_no_bpf(error: &anyhow::Error) -> &'static str {
    let causes = error.chain().filter_map(|cause| {
        let error = cause.downcast_ref::<std::io::Error>()?;
        error.raw_os_error()
    });
    match causes.last() {
        Some(libc::EPERM | libc::EACCES) => {
            "run as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; a kernel that is locked \
             down (/sys/kernel/security/lockdown) or a container may still refuse it"
        }
        Some(libc::ENOSYS) => "this kernel was built without CONFIG_BPF_SYSCALL",
        // Errors of files and of disk space; the error itself is clear.
        Some(libc::EROFS | libc::ENOSPC | libc::ENOTDIR | libc::EEXIST | libc::EDQUOT) => {
            "no kernel feature is missing"
        }
        _ => "Linux 6.1 or newer with BPF is needed: see Kernels in the README",
    }
}

/// Possible cause if a program could not be attached.
pub(crate) fn why_not_attached() -> String {
    if doctor::has_tcx(&release()) {
        "see Kernels in the README".to_owned()
    } else {
        "before Linux 6.6 that needs CONFIG_NET_CLS_ACT and CONFIG_NET_CLS_BPF".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_explained() {
        let refused = |number| {
            let error = std::io::Error::from_raw_os_error(number);
            why_no_bpf(&anyhow::Error::from(error).context("load the eBPF object"))
        };
        assert!(refused(libc::EPERM).contains("CAP_BPF"));
        assert!(refused(libc::ENOSYS).contains("CONFIG_BPF_SYSCALL"));
        assert!(refused(libc::EINVAL).contains("6.1"));
        assert!(check().is_ok());
    }
}

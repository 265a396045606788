//! `sixxs`: the IPv6 reply-path enforcer.

fn main() -> std::process::ExitCode {
    sixxs_user::cli::main()
}

//! x
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let t = std::time::Instant::now();
    let (_kernel, _rings) = sixxs_user::bpf::Kernel::load(
        std::path::Path::new("/tmp/pins"),
        Default::default(),
        std::env::args().count() > 1,
    )?;
    println!("{:?}", t.elapsed());
    print!(
        "{}",
        std::fs::read_to_string("/proc/self/status")?
            .lines()
            .filter(|l| l.starts_with("Vm"))
            .collect::<Vec<_>>()
            .join("\n")
    );
    Ok(())
}

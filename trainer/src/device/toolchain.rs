//! Finds a compiler for the chip: rustup's if it has the target, else Debian's, which builds `core` from its source.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A cargo that compiles for one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// `cargo` from the search path, whose rustc has the target installed.
    Installed,
    /// Debian's cargo and rustc, which have the source of `core` instead.
    Debian(Debian),
}

/// Debian's packages, by the files this needs from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debian {
    root: PathBuf,
}

/// There is no compiler for the target.
#[derive(Debug, thiserror::Error)]
#[error(
    "no compiler for {target} was found. Either of these gives one:\n  \
     rustup target add {target}\n  \
     apt install --no-install-recommends {}   (on Debian, Rust {version} or newer)", .missing.join(" "),
    version = env!("CARGO_PKG_RUST_VERSION")
)]
pub struct ToolchainError {
    /// Rust's name for the target.
    pub target: String,
    /// The Debian packages that are not installed.
    pub missing: Vec<&'static str>,
}

impl Debian {
    const FILES: [(&'static str, &'static str); 4] = [
        ("cargo-web", "bin/cargo"),
        ("rustc-web", "bin/rustc"),
        (
            "rust-web-src",
            "lib/rustlib/src/rust/library/core/Cargo.toml",
        ),
        ("lld", "bin/ld.lld"),
    ];

    /// The packages under a root, which is `/usr`, or the names of those that are not there.
    fn under(root: &Path) -> Result<Self, Vec<&'static str>> {
        let missing: Vec<_> = Self::FILES
            .iter()
            .filter(|(_, file)| !root.join(file).exists())
            .map(|(package, _)| *package)
            .collect();
        if missing.is_empty() {
            Ok(Self {
                root: root.to_owned(),
            })
        } else {
            Err(missing)
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }
}

impl Toolchain {
    /// The first that has this target.
    pub fn find(target: &str) -> Result<Self, ToolchainError> {
        if sysroot().is_some_and(|sysroot| has_target(&sysroot, target)) {
            return Ok(Self::Installed);
        }
        Debian::under(Path::new("/usr"))
            .map(Self::Debian)
            .map_err(|missing| ToolchainError {
                target: target.to_owned(),
                missing,
            })
    }

    /// `cargo build` for this target and CPU.
    pub fn cargo_build(&self, target: &str, cpu: &str) -> Command {
        let mut command = match self {
            Self::Installed => clean("cargo"),
            Self::Debian(debian) => clean(debian.file("cargo")),
        };
        command
            .args(["build", "--target", target])
            .env("RUSTFLAGS", format!("-Ctarget-cpu={cpu}"));
        if let Self::Debian(debian) = self {
            let linker = format!(
                "CARGO_TARGET_{}_LINKER",
                target.to_uppercase().replace(['-', '.'], "_")
            );
            command.arg("-Zbuild-std=core");
            command
                .env("RUSTC_BOOTSTRAP", "1")
                .env("RUSTC", debian.file("rustc"))
                .env(linker, debian.file("ld.lld"));
        }
        command
    }
}

/// A command without what a cargo around this process has put into its environment for another build.
fn clean(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_of_another_build))
    {
        command.env_remove(name);
    }
    command
}

/// Where cargo's home and network settings lie stays as it is.
fn is_of_another_build(variable: &str) -> bool {
    const PREFIXES: [&str; 9] = [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_ENCODED_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_UNSTABLE_",
    ];
    matches!(
        variable,
        "CARGO" | "RUSTUP_TOOLCHAIN" | "DEFMT_LOG" | "OUT_DIR" | "TARGET"
    ) || ["RUSTC", "RUSTDOC", "RUSTFLAGS"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
        || PREFIXES.iter().any(|prefix| variable.starts_with(prefix))
}

/// The folder of the compiler on the search path.
fn sysroot() -> Option<PathBuf> {
    let output = clean("rustc")
        .args(["--print", "sysroot"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(PathBuf::from(
        String::from_utf8(output.stdout).ok()?.trim_end(),
    ))
}

fn has_target(sysroot: &Path, target: &str) -> bool {
    sysroot
        .join("lib/rustlib")
        .join(target)
        .join("lib")
        .is_dir()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_target_is_installed_when_its_library_is() {
        let sysroot = tempfile::tempdir().unwrap();
        assert!(!has_target(sysroot.path(), "thumbv7m-none-eabi"));
        fs::create_dir_all(sysroot.path().join("lib/rustlib/thumbv7m-none-eabi/lib")).unwrap();
        assert!(has_target(sysroot.path(), "thumbv7m-none-eabi"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("bin")).unwrap();
        fs::write(root.path().join("bin/cargo"), "").unwrap();
        fs::write(root.path().join("bin/rustc"), "").unwrap();
        let missing = Debian::under(root.path()).unwrap_err();
        assert_eq!(missing, ["rust-web-src", "lld"]);
        let message = ToolchainError {
            target: "thumbv7m-none-eabi".into(),
            missing,
        }
        .to_string();
        assert!(
            message.contains("rustup target add thumbv7m-none-eabi"),
            "{message}"
        );
        assert!(
            message.contains("apt install --no-install-recommends rust-web-src lld"),
            "{message}"
        );
    }

    #[test]
    fn debians_cargo_is_called_by_its_full_path_with_its_own_compiler() {
        let debian = Toolchain::Debian(Debian {
            root: "/usr".into(),
        });
        let command = debian.cargo_build("thumbv8m.main-none-eabihf", "cortex-m33");
        assert_eq!(command.get_program(), "/usr/bin/cargo");
        assert!(
            command
                .get_args()
                .any(|argument| argument == "-Zbuild-std=core")
        );
        let variables: Vec<_> = command.get_envs().collect();
        let linker = OsStr::new("CARGO_TARGET_THUMBV8M_MAIN_NONE_EABIHF_LINKER");
        assert!(variables.contains(&(linker, Some(OsStr::new("/usr/bin/ld.lld")))));
        assert!(variables.contains(&(OsStr::new("RUSTC"), Some(OsStr::new("/usr/bin/rustc")))));
        assert!(variables.contains(&(
            OsStr::new("RUSTFLAGS"),
            Some(OsStr::new("-Ctarget-cpu=cortex-m33"))
        )));
    }

    #[test]
    fn the_outer_build_does_not_leak_in() {
        for variable in [
            "CARGO",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_PKG_NAME",
        ] {
            assert!(is_of_another_build(variable), "{variable}");
        }
        for variable in [
            "CARGO_HOME",
            "RUSTUP_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_PROXY",
            "PATH",
        ] {
            assert!(!is_of_another_build(variable), "{variable}");
        }
    }
}

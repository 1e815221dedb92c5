//! Which vector instructions there are, and which of them run.

use super::{Kernel, plain};
use stageline_base::Fault;
use std::sync::OnceLock;

/// Which instructions the processor's lanes are calculated with. Every one gives the same bits.
///
/// A value exists only for instructions that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Path);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    /// The environment variable that overrides the choice: `avx512`, `avx2` or `portable`.
    pub const VARIABLE: &str = "STAGELINE_ISA";

    /// All that this processor has, the fastest first.
    pub fn available() -> Vec<Isa> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("fma")
            {
                found.push(Isa(Path::Avx512));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                found.push(Isa(Path::Avx2));
            }
        }
        found.push(Isa(Path::Portable));
        found
    }

    /// Its name, as [`Isa::VARIABLE`] spells it.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => "avx2",
            Path::Portable => "portable",
        }
    }

    /// The one called `name`.
    ///
    /// # Errors
    /// `InvalidRequest` if this processor does not have it.
    pub fn named(name: &str) -> Result<Isa, Fault> {
        let available = Self::available();
        available.iter().copied().find(|isa| isa.name() == name).ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            Fault::invalid(format!("this processor cannot run {name:?} instructions; it can run: {}", names.join(", ")))
        })
    }

    /// What [`Isa::VARIABLE`] asks for, or else the fastest. Read once a process.
    ///
    /// # Errors
    /// As [`Isa::named`].
    pub fn chosen() -> Result<Isa, Fault> {
        static CHOSEN: OnceLock<Result<Isa, Fault>> = OnceLock::new();
        CHOSEN
            .get_or_init(|| match std::env::var_os(Self::VARIABLE) {
                Some(name) => Self::named(&name.to_string_lossy())
                    .map_err(|fault| Fault::invalid(format!("{}: {}", Self::VARIABLE, fault.message))),
                None => Ok(Self::available()[0]),
            })
            .clone()
    }

    /// Runs `kernel` in these instructions.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            // SAFETY: a value `Isa(Avx512)` or `Isa(Avx2)` is made only where detection found the features.
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => unsafe { super::avx512::run(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { super::avx2::run(kernel) },
            Path::Portable => plain::run(kernel),
        }
    }
}

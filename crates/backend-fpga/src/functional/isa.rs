//! Which vector instructions the processor has, and functions compiled for each.

/// A set of instructions that this processor has. There is no other way to get one than [`Isa::available`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// From the slowest to the fastest.
    pub(super) fn available() -> Vec<Self> {
        let mut found = vec![Self(Level::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                found.push(Self(Level::Avx2));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                found.push(Self(Level::Avx512));
            }
        }
        found
    }

    pub(super) fn best() -> Self {
        Self::available().pop().unwrap_or(Self(Level::Portable))
    }

    pub(super) fn level(self) -> Level {
        self.0
    }

    pub(super) fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "any processor",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX-512 VNNI",
        }
    }
}

/// `fn name(isa, …)`: the `#[inline(always)]` function `body`, compiled for each [`Isa`].
macro_rules! per_isa {
    ($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? = $body:path;) => {
        $(#[$doc])*
        fn $name(isa: $crate::functional::isa::Isa, $($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    $body($($argument),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    $body($($argument),*)
                }
                match isa.level() {
                    // SAFETY: an `Isa` is only made of what the processor was found to have.
                    $crate::functional::isa::Level::Avx2 => return unsafe { avx2($($argument),*) },
                    // SAFETY: the same.
                    $crate::functional::isa::Level::Avx512 => return unsafe { avx512($($argument),*) },
                    $crate::functional::isa::Level::Portable => {}
                }
            }
            let _ = isa;
            $body($($argument),*)
        }
    };
}
pub(super) use per_isa;

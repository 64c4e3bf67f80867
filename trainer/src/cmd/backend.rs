//! `--backend`: what computes the float network.

use clap::{Args, ValueEnum};
use espalier::train::Backend;

use super::Error;

/// The flag.
#[derive(Args, Clone, Copy)]
pub struct BackendFlag {
    /// What computes the network; candle needs a program that was built with it, and its
    /// release is the last that there will be (docs/candle.md)
    #[arg(long, value_enum, default_value_t)]
    backend: Name,
}

/// What can be asked for, whether or not it is there.
#[derive(Clone, Copy, Default, ValueEnum)]
enum Name {
    #[default]
    Flex,
    Candle,
}

impl BackendFlag {
    /// The backend, or how to get it.
    pub fn chosen(self) -> Result<Backend, Error> {
        match self.backend {
            Name::Flex => Ok(Backend::Flex),
            #[cfg(feature = "candle")]
            Name::Candle => Ok(Backend::Candle),
            #[cfg(not(feature = "candle"))]
            Name::Candle => Err(Error::NoCandle),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candle_is_there_or_how_to_get_it_is() {
        let chosen = |backend| BackendFlag { backend }.chosen();
        assert!(matches!(chosen(Name::Flex), Ok(Backend::Flex)));
        assert_eq!(chosen(Name::Candle).is_ok(), cfg!(feature = "candle"));
        let said = Error::NoCandle.to_string();
        assert!(said.contains("--features candle"), "{said}");
    }
}

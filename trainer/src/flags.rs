//! The keys of a section of `espalier.toml` as flags of a command.

use std::marker::PhantomData;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use espalier::config::Section;

/// The flags of section `S` that were given.
#[derive(Clone, Debug)]
pub struct Flags<S> {
    table: toml::Table,
    section: PhantomData<S>,
}

impl<S: Section> Flags<S> {
    /// Section name and given keys, for [`espalier::config::Project::load`].
    pub fn table(&self) -> (&'static str, toml::Table) {
        (S::NAME, self.table.clone())
    }
}

impl<S: Section> Args for Flags<S> {
    fn augment_args(command: Command) -> Command {
        let heading = format!("Keys of [{}] in espalier.toml", S::NAME);
        command.args(S::KEYS.iter().map(|&(key, help)| {
            Arg::new(key)
                .long(key.replace('_', "-"))
                .value_name("VALUE")
                .help(help)
                .help_heading(heading.clone())
                .allow_negative_numbers(true)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Section> FromArgMatches for Flags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = S::KEYS.iter().filter_map(|&(key, _)| {
            let text = matches.get_one::<String>(key)?;
            Some((key.to_owned(), value(text)))
        });
        Ok(Self {
            table: given.collect(),
            section: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A flag's text as the TOML value that it spells, else as a string.
fn value(text: &str) -> toml::Value {
    toml::from_str::<toml::Table>(&format!("x = {text}"))
        .ok()
        .and_then(|mut table| table.remove("x"))
        .unwrap_or_else(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn flags_are_values_or_words() {
        assert_eq!(value("3"), toml::Value::Integer(3));
        assert_eq!(value("true"), toml::Value::Boolean(true));
        assert_eq!(value("crop"), toml::Value::String("crop".into()));
        assert_eq!(
            value("../a b.safetensors"),
            toml::Value::String("../a b.safetensors".into())
        );
        assert_eq!(value("[28, 28]").as_array().map(Vec::len), Some(2));
    }
}

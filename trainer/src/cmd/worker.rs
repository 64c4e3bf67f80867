//! `espalier worker`: lends this machine's cores to trainings on other machines.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use espalier::distributed::{DEFAULT_PORT, Server, TOKEN_VARIABLE, Token, VERSION, random_token};
use serde::Serialize;

use super::Error;
use crate::output::{Report, say};

/// Flags of the command.
#[derive(Args)]
pub struct Cmd {
    /// UDP address and port: 0.0.0.0:7411 for every network of this machine, port 0 for a free one
    #[arg(long, value_name = "ADDRESS:PORT",
        default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT))]
    listen: SocketAddr,
    /// The secret that clients must have; else that in the environment variable ESPALIER_TOKEN, else a new one
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// What a worker did until it was stopped.
#[derive(Serialize)]
pub struct Worked {
    pub address: SocketAddr,
    pub sessions: usize,
    pub refused: usize,
}

impl Cmd {
    /// Serves until Ctrl-C.
    pub fn run(self) -> Result<Worked, Error> {
        let known = Token::find(self.token_file.as_deref())?;
        let token = known.clone().unwrap_or_else(random_token);
        let server = Server::start(self.listen, &token, VERSION)?;
        let address = server.address();
        if known.is_none() {
            say(format!(
                "token {}\nput it into a file for `--token-file`, or into {TOKEN_VARIABLE}, on both machines: a worker \
                 that starts without one makes a new one",
                token.text()
            ));
        }
        say(format!(
            "espalier {VERSION} works for others at {address} until Ctrl-C"
        ));
        server.wait()?;
        let (sessions, refused) = server.sessions();
        Ok(Worked {
            address,
            sessions,
            refused,
        })
    }
}

impl Report for Worked {}

impl fmt::Display for Worked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connections served {}, refused {}",
            self.sessions, self.refused
        )
    }
}

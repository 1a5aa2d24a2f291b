//! `login` and `logout`.

use std::io::{IsTerminal, Read};

use cofferdam_image::reference::DOCKER_HUB;
use cofferdam_image::registry::Secret;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::args::{RegistryArgs, refuse};
use crate::cli::LoginArgs;
use crate::output::{CliError, note};

/// The longest password that is read, in bytes: tokens have some thousands.
const PASSWORD_LIMIT: u64 = 64 << 10;

/// Shows a login to a registry, and stores it when the registry takes it.
pub(crate) async fn login(args: LoginArgs) -> Result<u8, CliError> {
    let server = args.server.as_deref().unwrap_or(DOCKER_HUB);
    let user = match args.username {
        Some(user) => user,
        None if args.password_stdin => {
            return Err(refuse("--username", "it goes with --password-stdin"));
        }
        None => ask("Username: ", false)?,
    };
    let password = if args.password_stdin { read_all()? } else { ask("Password: ", true)? };
    let secret = Secret::from(password.trim_end_matches(['\r', '\n']).to_owned());
    args.registry.client()?.login(server, &user, secret).await?;
    note(format_args!("{server} takes this login"));
    Ok(0)
}

/// Forgets a login.
pub(crate) async fn logout(server: Option<&str>) -> Result<u8, CliError> {
    let server = server.unwrap_or(DOCKER_HUB);
    if RegistryArgs::default().client()?.logout(server).await? {
        note(format_args!("the login for {server} is forgotten"));
    } else {
        note(format_args!("there was no login for {server}"));
    }
    Ok(0)
}

fn read_all() -> Result<String, CliError> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(PASSWORD_LIMIT).read_to_string(&mut text);
    read.map_err(|error| refuse("--password-stdin", &error.to_string()))?;
    Ok(text)
}

/// Asks the person at the terminal; a secret is not shown.
fn ask(what: &str, is_secret: bool) -> Result<String, CliError> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(refuse(
            "--username, --password-stdin",
            "without a terminal nobody can be asked: give both",
        ));
    }
    let failed = |error: std::io::Error| CliError::internal("the terminal", &error);
    let shown = tcgetattr(&stdin).map_err(|errno| failed(errno.into()))?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    crate::output::prompt(what);
    if is_secret {
        tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(|errno| failed(errno.into()))?;
    }
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    if is_secret {
        tcsetattr(&stdin, OptionalActions::Now, &shown).map_err(|errno| failed(errno.into()))?;
        crate::output::prompt("\n");
    }
    read.map_err(failed)?;
    Ok(line.trim_end().to_owned())
}

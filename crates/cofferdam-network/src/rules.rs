//! Calls of iptables, beside those that plugins make.

use std::ffi::OsString;
use std::time::Duration;

use crate::cni::client::{PATH, find_program};
use crate::error::NetworkError;
use crate::networks::Networks;
use crate::programs::{ProgramCall, ProgramStatus};

/// How long iptables may wait for its lock, in seconds, as its option takes it.
const LOCK_SECONDS: &str = "10";
/// How long a call of iptables may take: the wait for its lock, and as much again.
const LIMIT: Duration = Duration::from_secs(20);
/// How much of its output is kept, in bytes: rules of some thousand containers.
const OUTPUT_LIMIT_BYTES: usize = 16 << 20;

impl Networks {
    /// Calls iptables, or a program of its family, and gives what it writes.
    pub(crate) async fn iptables(&self, program: &str, words: &str) -> Result<Vec<u8>, NetworkError> {
        let mut args: Vec<OsString> = vec!["-w".into(), LOCK_SECONDS.into()];
        args.extend(words.split(' ').map(OsString::from));
        let path = find_program(program)?;
        let call = ProgramCall {
            program: path.clone(),
            args,
            env: vec![("PATH".into(), PATH.into())],
            stdin: Vec::new(),
            limit: LIMIT,
            output_limit_bytes: OUTPUT_LIMIT_BYTES,
        };
        let end =
            self.programs.run(call).await.map_err(|source| NetworkError::Start { program: path, source })?;
        if end.status == ProgramStatus::Exited(0) {
            return Ok(end.stdout);
        }
        let reason = format!("{:?}: {}", end.status, String::from_utf8_lossy(&end.stderr).trim());
        Err(NetworkError::Program { program: program.to_owned(), reason })
    }
}

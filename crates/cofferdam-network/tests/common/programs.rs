//! Programs on tokio's processes, as somebody who has no reaper would run them.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use async_trait::async_trait;
use cofferdam_network::{ProgramCall, ProgramEnd, ProgramStatus, Programs};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

#[derive(Debug)]
pub(crate) struct TokioPrograms;

#[async_trait]
impl Programs for TokioPrograms {
    #[expect(clippy::disallowed_methods, reason = "a test reaps its children itself")]
    async fn run(&self, call: ProgramCall) -> io::Result<ProgramEnd> {
        let mut child = tokio::process::Command::new(&call.program)
            .args(&call.args)
            .env_clear()
            .envs(call.env)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let group = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        let mut stdin = child.stdin.take().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let limit = call.output_limit_bytes;
        let feed = async move {
            // A program need not read what it gets.
            let _ = stdin.write_all(&call.stdin).await;
        };
        let done = async { tokio::join!(child.wait(), feed, read(stdout, limit), read(stderr, limit)) };
        match tokio::time::timeout(call.limit, done).await {
            Ok((status, (), stdout, stderr)) => {
                let status = status?;
                let status = match status.code() {
                    Some(code) => ProgramStatus::Exited(code),
                    None => ProgramStatus::Signaled(status.signal().unwrap()),
                };
                Ok(ProgramEnd { status, stdout, stderr })
            }
            Err(_) => {
                let _ = rustix::process::kill_process_group(group.unwrap(), rustix::process::Signal::KILL);
                Ok(ProgramEnd { status: ProgramStatus::TimedOut, stdout: Vec::new(), stderr: Vec::new() })
            }
        }
    }
}

/// Reads to the end and keeps the first bytes.
async fn read(mut stream: impl AsyncRead + Unpin, limit: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = limit.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(&buffer[..room]);
    }
    kept
}

//! A person at a terminal, played by tmux: prompt, size, Ctrl-C, the keys that detach, exit code, and a terminal that is
//! afterwards as it was.

use std::path::PathBuf;

use cofferdam_testkit::lab::{Lab, eventually, finish, new_command};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("terminal::a_session_at_a_shell", a_session_at_a_shell).only(is_one_of_each).needs(&[Need::Tmux]),
    case("terminal::left_and_found_again", left_and_found_again).only(is_one_of_each).needs(&[Need::Tmux]),
];

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(RUNSC_DEBIAN))
}

/// A terminal with a shell of the host in it. It ends with the test.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    fn open(lab: &Lab) -> Self {
        let terminal = Self { socket: lab.path().join("tmux") };
        let state = format!("COFFERDAM_STATE_DIR={}", lab.state().display());
        let program = lab.command::<&str>([]).get_program().to_string_lossy().into_owned();
        let (alias, size) = (format!("COFFERDAM={program}"), ["-x", "90", "-y", "30"]);
        let shell = ["env", &state, &alias, "PS1=host> ", "sh"];
        terminal.tmux(&[&["-f", "/dev/null", "new-session", "-d"], &size[..], &shell].concat());
        terminal.until("host>");
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let mut command = new_command("tmux");
        command.arg("-S").arg(&self.socket).args(args);
        finish(command).expect_code(0).text()
    }

    fn screen(&self) -> String {
        // What has scrolled away, too.
        self.tmux(&["capture-pane", "-p", "-J", "-S", "-1000"])
    }

    fn until(&self, shown: &str) {
        let mut screen = String::new();
        eventually(shown, || {
            screen = self.screen();
            screen.contains(shown)
        });
    }

    fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.tmux(&["send-keys", "Enter"]);
    }

    fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn resize(&self, columns: &str, rows: &str) {
        self.tmux(&["resize-window", "-x", columns, "-y", rows]);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut command = new_command("tmux");
        command.arg("-S").arg(&self.socket).arg("kill-server");
        drop(finish(command));
    }
}

fn a_session_at_a_shell(lab: &Lab) {
    let terminal = Terminal::open(lab);
    let run = lab.launch_args("run", &["--rm", "-it", "-e", "PS1=inside> "], &["sh"]).join(" ");
    terminal.line(&format!("$COFFERDAM {} ; echo code=$?", run.replace("PS1=inside> ", "'PS1=inside> '")));
    terminal.until("inside>");
    terminal.line("echo size: $(stty size)");
    terminal.until("size: 30 90");
    terminal.resize("100", "40");
    // The size is on its way.
    eventually("it has the new size", || {
        terminal.line("echo size: $(stty size)");
        terminal.screen().contains("size: 40 100")
    });
    terminal.line("echo begun; sleep 1000");
    terminal.until("\nbegun");
    // A shell that is just about to start the command may miss it.
    eventually("it is interrupted", || {
        terminal.key("C-c");
        terminal.line("echo after$((40+2))");
        terminal.screen().contains("after42")
    });
    terminal.line("exit 5");
    terminal.until("code=5");
    // What is typed is shown again, and a line ends where Enter was pressed.
    terminal.line("stty -a | tr ';' ' ' | grep -o -w -e '-*icanon' -e '-*echo' | tr '\\n' ' '; echo modes");
    terminal.until("icanon echo modes");
    drop(terminal);
    lab.expect_clean();
}

fn left_and_found_again(lab: &Lab) {
    let id = lab.run_detached(&["-it", "--name", "t", "-e", "PS1=inside> "], &["sh"]);
    let terminal = Terminal::open(lab);
    terminal.line("$COFFERDAM attach t; echo code=$?");
    terminal.line("echo here$((40+2))");
    terminal.until("here42");
    crate::keeper::kill_supervisor(lab, &id);
    terminal.until("Another one goes on");
    terminal.line("echo there$((40+3))");
    terminal.until("there43");
    terminal.key("C-p");
    terminal.key("C-q");
    terminal.until("code=0");
    assert_eq!(lab.inspect("t")["state"]["status"], "running");
    // Its size comes a moment after its start, as with docker.
    let script = "until [ \"$(stty size)\" = \"30 90\" ]; do sleep 0.02; done; exit 6";
    terminal.line(&format!("$COFFERDAM exec -it t sh -c '{script}'; echo exec=$?"));
    terminal.until("exec=6");
    terminal.line("$COFFERDAM attach t; echo again=$?");
    terminal.line("exit 7");
    terminal.until("again=7");
    assert_eq!(lab.report(&id)["cause"]["code"], 7);
    drop(terminal);
    drop(lab.cofferdam(&["rm", "t"]).expect_code(0));
    lab.expect_clean();
}

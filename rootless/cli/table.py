"""Which commands there are: name -> module in `rootless.cli.commands`, a line about it. Pure data.

docker's commands of old stand beside its groups: `rootless ps` is `rootless container ls`."""

from __future__ import annotations

from rootless.cli.command import Entry

_GROUPS = "Groups"
_COMMON = "Common commands"

CONTAINER = {
    "attach": Entry("attach", "Connect standard streams to a running container"),
    "commit": Entry("commit", "Make an image of what a container changed"),
    "cp": Entry("cp", "Copy files between a container and this host"),
    "create": Entry("create", "Make a container and do not start it"),
    "diff": Entry("diff", "Show what a container changed in its file system"),
    "exec": Entry("exec", "Run a further command in a running container"),
    "export": Entry("export", "Write a container's file system as a tar archive"),
    "inspect": Entry("container_inspect", "Show everything about containers, as JSON"),
    "kill": Entry("kill", "Send containers a signal, SIGKILL unless told otherwise"),
    "logs": Entry("logs", "Show what a container has written"),
    "ls": Entry("ps", "List containers"),
    "list": Entry("ps", "List containers", hidden=True),
    "ps": Entry("ps", "List containers", hidden=True),
    "mount": Entry("container_mount", "Mount containers' file systems where you can look inside"),
    "pause": Entry("pause", "Freeze all processes of containers"),
    "port": Entry("port", "Show the published ports of a container"),
    "prune": Entry("container_prune", "Remove all containers that do not run"),
    "rename": Entry("rename", "Give a container another name"),
    "restart": Entry("restart", "Stop containers and start them again"),
    "rm": Entry("rm", "Remove containers"),
    "remove": Entry("rm", "Remove containers", hidden=True),
    "run": Entry("run", "Make a container from an image and run it"),
    "start": Entry("start", "Start containers that do not run"),
    "stop": Entry("stop", "Stop containers: their stop signal, then SIGKILL"),
    "top": Entry("top", "Show the processes of a container"),
    "unmount": Entry("container_unmount", "Unmount them"),
    "umount": Entry("container_unmount", "Unmount them", hidden=True),
    "unpause": Entry("unpause", "Let frozen containers go on"),
    "wait": Entry("wait", "Wait until containers end, print their exit codes"),
}
IMAGE = {
    "history": Entry("history", "Show how an image was made"),
    "import": Entry("import_", "Make an image of a root file system in a tar archive"),
    "inspect": Entry("image_inspect", "Show everything about images, as JSON"),
    "load": Entry("load", "Load images from an archive"),
    "ls": Entry("images", "List images"),
    "mount": Entry("image_mount", "Mount images where you can look inside"),
    "list": Entry("images", "List images", hidden=True),
    "prune": Entry("image_prune", "Remove images nobody needs"),
    "pull": Entry("pull", "Get an image from a registry"),
    "push": Entry("push", "Send an image to a registry"),
    "rm": Entry("rmi", "Remove images"),
    "remove": Entry("rmi", "Remove images", hidden=True),
    "save": Entry("save", "Write images to an archive"),
    "tag": Entry("tag", "Give an image a further name"),
    "unmount": Entry("image_unmount", "Unmount them"),
    "umount": Entry("image_unmount", "Unmount them", hidden=True),
}
MANIFEST = {
    "annotate": Entry("manifest_annotate", "Say more about an image of a local list"),
    "create": Entry("manifest_create", "Make a local list of images for several platforms"),
    "inspect": Entry("manifest_inspect", "Show a manifest or a list of them"),
    "push": Entry("manifest_push", "Send a local list to a registry"),
    "rm": Entry("manifest_rm", "Remove local lists"),
}
VOLUME = {
    "create": Entry("volume_create", "Make a volume"),
    "inspect": Entry("volume_inspect", "Show everything about volumes, as JSON"),
    "ls": Entry("volume_ls", "List volumes"),
    "list": Entry("volume_ls", "List volumes", hidden=True),
    "prune": Entry("volume_prune", "Remove volumes nobody uses"),
    "rm": Entry("volume_rm", "Remove volumes"),
    "remove": Entry("volume_rm", "Remove volumes", hidden=True),
}
NETWORK = {
    "connect": Entry("network_connect", "Connect a container to a network"),
    "create": Entry("network_create", "Make a network"),
    "disconnect": Entry("network_disconnect", "Take a container off a network"),
    "inspect": Entry("network_inspect", "Show everything about networks, as JSON"),
    "ls": Entry("network_ls", "List networks"),
    "list": Entry("network_ls", "List networks", hidden=True),
    "pcap": Entry("network_pcap", "Write what passes on a network as a capture for tshark"),
    "prune": Entry("network_prune", "Remove networks nobody uses"),
    "rm": Entry("network_rm", "Remove networks"),
    "remove": Entry("network_rm", "Remove networks", hidden=True),
}
SYSTEM = {
    "check": Entry("system_check", "Verify the images in the store, and mend what can be mended"),
    "df": Entry("system_df", "Show the room that images, containers and volumes take"),
    "events": Entry("events", "Show what happens, as it happens"),
    "info": Entry("info", "Show the engine, this host and the settings in force"),
    "start": Entry("system_start", "Start the engine, if it does not run"),
    "status": Entry("system_status", "Show whether the engine runs, and its processes"),
    "stop": Entry("system_stop", "Stop the engine and its containers"),
}
_OLD_NAMES = [
    *("attach", "commit", "cp", "create", "diff", "export", "kill", "logs", "pause", "port", "rename", "restart", "rm"),
    *("start", "stop", "top", "unpause", "wait"),
]
COMMANDS: dict[str, Entry] = {
    "run": Entry("run", CONTAINER["run"].summary, _COMMON),
    "exec": Entry("exec", CONTAINER["exec"].summary, _COMMON),
    "ps": Entry("ps", "List containers", _COMMON),
    "pull": Entry("pull", IMAGE["pull"].summary, _COMMON),
    "push": Entry("push", IMAGE["push"].summary, _COMMON),
    "images": Entry("images", "List images", _COMMON),
    "login": Entry("login", "Log in to a registry", _COMMON),
    "logout": Entry("logout", "Forget the credentials of a registry", _COMMON),
    "search": Entry("search", "Search Docker Hub, or the catalogue of a registry", _COMMON),
    "version": Entry("version", "Show the versions of command line and engine", _COMMON),
    "info": Entry("info", SYSTEM["info"].summary, _COMMON),
    "container": Entry("container", "Work with containers", _GROUPS),
    "image": Entry("image", "Work with images", _GROUPS),
    "manifest": Entry("manifest", "Work with images for several platforms", _GROUPS),
    "network": Entry("network", "Work with networks", _GROUPS),
    "system": Entry("system", "Work with the engine", _GROUPS),
    "volume": Entry("volume", "Work with volumes", _GROUPS),
    "engine": Entry("engine", "Run the engine in the foreground"),
    "events": SYSTEM["events"],
    "history": IMAGE["history"],
    "import": IMAGE["import"],
    "inspect": Entry("inspect", "Show everything about containers, images, volumes or networks, as JSON"),
    "load": IMAGE["load"],
    "rmi": Entry("rmi", "Remove images"),
    "save": IMAGE["save"],
    "tag": IMAGE["tag"],
    **{name: CONTAINER[name] for name in _OLD_NAMES},
}
COMMANDS = dict(sorted(COMMANDS.items(), key=lambda item: (item[1].heading == "Commands", item[0])))

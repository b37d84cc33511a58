package mmapio

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mappers returns the processes that have the file at path mapped, in ascending
// order, as far as this process may know.
func Mappers(path string) ([]int, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	// As in /proc/PID/maps, whose fifth field is the inode.
	device, inode := fmt.Sprintf("%02x:%02x", unix.Major(st.Dev), unix.Minor(st.Dev)), strconv.FormatUint(st.Ino, 10)
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		maps, err := mapsIt(pid, device, inode)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ESRCH):
			// It has ended, or is somebody else's.
		case err != nil:
			return nil, err
		case maps:
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// mapsIt looks for a file among the mappings of a process.
func mapsIt(pid int, device, inode string) (bool, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/maps")
	if err != nil {
		return false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // address, permissions, offset, device, inode, path
		if len(fields) >= 5 && fields[3] == device && fields[4] == inode {
			return true, nil
		}
	}
	return false, lines.Err()
}

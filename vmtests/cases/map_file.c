/*
 * Maps a file or a device and works on it as an application does, in the guest.
 *
 *	map_file write PATH BYTES STEP	write a word every STEP bytes, sync, let a child of a fork read them all
 *	map_file read PATH BYTES STEP	read what `write` wrote, and print a checksum of all BYTES
 *	map_file hold PATH BYTES STEP	write as `write` does, say "mapped", keep the mapping until the end of stdin,
 *					then read as `read` does
 *
 * Each word is its own place in the file. Exit status: 0, or 1 with a message.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t word(uint64_t at)
{
	return at ^ 0x766d74657374735aull;
}

static void write_words(volatile char *map, uint64_t bytes, uint64_t step)
{
	for (uint64_t at = 0; at < bytes; at += step)
		*(volatile uint64_t *)(map + at) = word(at);
}

static int differs(const volatile char *map, uint64_t bytes, uint64_t step)
{
	for (uint64_t at = 0; at < bytes; at += step) {
		uint64_t got = *(const volatile uint64_t *)(map + at);

		if (got != word(at)) {
			fprintf(stderr, "byte %#llx holds %#llx, not %#llx\n", (unsigned long long)at,
				(unsigned long long)got, (unsigned long long)word(at));
			return 1;
		}
	}
	return 0;
}

/* FNV-1a, by words. */
static uint64_t checksum(const uint64_t *words, uint64_t count)
{
	uint64_t sum = 0xcbf29ce484222325ull;

	while (count--)
		sum = (sum ^ *words++) * 0x100000001b3ull;
	return sum;
}

int main(int argc, char **argv)
{
	if (argc != 5) {
		fprintf(stderr, "usage: map_file write|read|hold PATH BYTES STEP\n");
		return 1;
	}
	uint64_t bytes = strtoull(argv[3], NULL, 0), step = strtoull(argv[4], NULL, 0);
	struct stat stat;
	int file = open(argv[2], O_RDWR);

	if (file < 0 || fstat(file, &stat))
		fail(argv[2]);
	char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

	if (map == MAP_FAILED)
		fail("mmap");
	if (!strcmp(argv[1], "hold")) {
		write_words(map, bytes, step);
		puts("mapped");
		fflush(stdout);
		while (getchar() != EOF)
			;
	}
	if (strcmp(argv[1], "write")) {
		printf("%016llx\n", (unsigned long long)checksum((const uint64_t *)map, bytes / sizeof(uint64_t)));
		return differs(map, bytes, step);
	}
	write_words(map, bytes, step);
	/* A device has no cache to be written back, and no fsync() either. */
	if (S_ISREG(stat.st_mode) && msync(map, bytes, MS_SYNC))
		fail("msync");
	pid_t child = fork();
	int status;

	if (child < 0)
		fail("fork");
	if (!child)
		_exit(differs(map, bytes, step));
	if (waitpid(child, &status, 0) != child)
		fail("waitpid");
	if (munmap(map, bytes))
		fail("munmap");
	return !WIFEXITED(status) || WEXITSTATUS(status);
}

import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.util.concurrent.TimeUnit;
import milepost.v1.AudienceServiceGrpc;
import milepost.v1.CheckMembershipRequest;

/** Asks whether a user is in an audience: {@code java Check localhost:7443 accounts/acme/journeys/tiers/milestones/gold ann}. */
public final class Check {
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    public static void main(String[] arguments) throws InterruptedException {
        // A connection carries 1,000 calls at a time: for more than 500, make more than one channel.
        ManagedChannel channel = ManagedChannelBuilder.forTarget(arguments[0]).usePlaintext().build();
        Metadata headers = new Metadata();
        String key = System.getenv("MILEPOST_API_KEY");
        if (key != null) {
            headers.put(AUTHORIZATION, "Bearer " + key);
        }
        AudienceServiceGrpc.AudienceServiceBlockingStub audiences =
                AudienceServiceGrpc.newBlockingStub(channel)
                        .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers))
                        .withDeadlineAfter(5, TimeUnit.SECONDS);
        CheckMembershipRequest request =
                CheckMembershipRequest.newBuilder().setAudience(arguments[1]).setUserId(arguments[2]).build();
        try {
            System.out.println(audiences.checkMembership(request).getMember());
        } catch (StatusRuntimeException refused) {
            // The status has an ErrorInfo with the reason.
            System.err.println(StatusProto.fromThrowable(refused));
            System.exit(1);
        } finally {
            channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
        }
    }
}
